"""Reading of valid, invalid and hostile recipes; tests/parity compares with SparseML."""

import pytest

from helpers.loading import RANGE, load, problem_of, problems_of

# ---- where a recipe stands


# ---- values


# ---- variables, arithmetic, overrides


# ---- keys of a recipe


def test_modifiers_keep_the_order_of_the_file_whatever_their_keys():
    text = (
        "b_modifiers:\n  - !AnyModifier {whole: 1}\nx: 1\nmy_modifiers_too: [!AnyModifier {whole: 2}, !AnyModifier ]\n"
    )
    text += "single: !AnyModifier {whole: 3}\nempty_modifiers:\n"
    assert [modifier.whole for modifier in load(text).modifiers] == [1, 2, 0, 3]
    assert load(text).variables == {"x": 1}


@pytest.mark.parametrize(
    "text", ["- !AnyModifier\n  whole: 1", "!AnyModifier\nwhole: 1", "- !pytorch.AnyModifier {whole: 1}"]
)
def test_modifiers_need_no_key(text):
    assert [modifier.whole for modifier in load(text).modifiers] == [1]


@pytest.mark.parametrize("text", ["a: 1\na: 2\nmodifiers: []\n", "modifiers: []\nmodifiers: []\n"])
def test_duplicate_key_is_refused(text):
    assert "duplicate key" in problem_of(text)


@pytest.mark.parametrize(
    "value", ["bert.encoder.layer.11'", "'bert.encoder.layer.11\"'", '"\'bert.encoder.layer.11"', "re:.*weight'"]
)
def test_name_with_a_quote_at_one_end_is_refused(value):
    """As in the tutorial's own fragment for LayerPruningModifier."""
    for text in (f"layers: [bert.encoder.layer.1, {value}]", f"layers:\n      - {value}", "layers: eval(names)"):
        recipe = f"names: [{value}]\nmodifiers:\n  - !LayerPruningModifier\n    {text}\n"
        assert "has a quote at one end only" in problems_of(recipe)[0]


def test_metadata_may_end_in_a_quote():
    assert load('__metadata__: {note: "the layers\'"}\n' + RANGE).metadata == {"note": "the layers'"}


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ("start_epoch: -5, end_epoch: 3", "start_epoch must be at least -1 (the start), got -5"),
        ("start_epoch: 0, end_epoch: -2", "end_epoch must be at least -1 (the end of the run), got -2"),
        ("start_epoch: -1, end_epoch: -0.5", "end_epoch must be at least 0, or -1 (the end of the run), got -0.5"),
        ("update_frequency: -2", "update_frequency must be at least -1 (every step), got -2"),
    ],
)
def test_times_before_the_run_are_refused(times, message):
    assert message in problem_of(f"modifiers:\n  - !AnyModifier {{{times}}}\n")


def test_a_start_between_minus_one_and_zero_is_the_start_as_in_sparseml():
    (modifier,) = load("modifiers:\n  - !AnyModifier {start_epoch: -0.5, end_epoch: 2}").modifiers
    assert modifier.active_range == (0.0, 2.0)


def test_metadata_is_kept_as_it_is_and_the_version_is_not_a_variable():
    recipe = load(
        "version: 1.1.0\n__metadata__:\n  note: eval(1)\n  level: 2\nframework_metadata: {python: 3.11.4}\n" + RANGE
    )
    assert recipe.metadata == {"note": "eval(1)", "level": 2, "framework_metadata": {"python": "3.11.4"}}
    assert recipe.variables == {}
    assert load("one:\n  __metadata__: {a: 1}\n  modifiers: []").metadata == {"one": {"a": 1}}
    assert load("__metadata__: None\n" + RANGE).metadata is None  # as SparseML writes it
    assert "__metadata__ must be a mapping, got 3" in problem_of("__metadata__: 3\n" + RANGE)
    text = problem_of("__metadata__: {one: 3}\none:\n  __metadata__: {a: 1}\n  modifiers: []")
    assert "one in __metadata__ must be a mapping, got 3" in text


# ---- learning rates


# ---- writing


# ---- hostile recipes
