"""Is a recipe read as it is meant, and a wrong or hostile one told from a right one? tests/parity asks SparseML."""

import json
import pickle

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.loading import ALL, RANGE, AnyModifier, load, problem_of, problems_of
from sparsification.recipe.loader import Recipe, RecipeError, load_recipe

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
def test_modifiers_may_stand_without_a_key(text):
    assert [modifier.whole for modifier in load(text).modifiers] == [1]


@pytest.mark.parametrize("text", ["a: 1\na: 2\nmodifiers: []\n", "modifiers: []\nmodifiers: []\n"])
def test_key_twice_is_told(text):
    assert "stands here twice" in problem_of(text)


@pytest.mark.parametrize(
    "value", ["bert.encoder.layer.11'", "'bert.encoder.layer.11\"'", '"\'bert.encoder.layer.11"', "re:.*weight'"]
)
def test_name_with_a_quote_at_one_end_is_told(value):
    """As in the tutorial's own fragment for LayerPruningModifier."""
    for text in (f"layers: [bert.encoder.layer.1, {value}]", f"layers:\n      - {value}", "layers: eval(names)"):
        recipe = f"names: [{value}]\nmodifiers:\n  - !LayerPruningModifier\n    {text}\n"
        assert "has a quote at one end only" in problems_of(recipe)[0]


def test_text_that_is_no_name_may_end_in_a_quote():
    assert load('__metadata__: {note: "the layers\'"}\n' + RANGE).metadata == {"note": "the layers'"}


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ("start_epoch: -5, end_epoch: 3", "start_epoch -5 is below -1, which stands for the start"),
        ("start_epoch: 0, end_epoch: -2", "end_epoch -2 is below -1, which stands for the end of the run"),
        ("start_epoch: -1, end_epoch: -0.5", "end_epoch -0.5 is before the run"),
        ("update_frequency: -2", "update_frequency -2 is below -1, which stands for every step"),
    ],
)
def test_times_before_the_run_are_told(times, message):
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
    assert "__metadata__ must be a mapping, not 3" in problem_of("__metadata__: 3\n" + RANGE)


def test_every_problem_is_told_at_once_in_the_order_of_lines():
    text = """a: eval(b)
training_modifiers:
  - !EpochRangeModifier
    end_epoch: abc
  - !GMPrunningModifier
    start_epoch: 0
  - !LayerThinningModifier {}
  - !!python/object/apply:os.system ["true"]
  - SetLearningRateModifier
pruning_modifiers:
  - !GMPruningModifier
    params: __ALL__
    final_sparcity: 0.8
    end_epoch: 2.0
  - !TrainableParamsModifier
    end_epoch: 2.0
  - !EpochRangeModifier
    start_epoch: 5
    end_epoch: 2
  - !AnyModifier 3
more_modifiers: {EpochRangeModifier: {end_epoch: 1.0}}
"""
    problems = [problem.removeprefix("<recipe>, line ") for problem in problems_of(text, "c=1")]
    expected = [
        "recipe_args: the recipe has no variable 'c'; there are 'a'",
        "1: 'eval(b)': there is no variable 'b'; there are 'a'",
        "4: EpochRangeModifier: end_epoch must be a number, not 'abc'",
        "5: there is no modifier 'GMPrunningModifier'; did you mean 'GMPruningModifier'?",
        "7: LayerThinningModifier needs param_group_dependency_map",
        "8: modifiers stand here in a list",
        "9: modifiers stand here in a list",
        "13: GMPruningModifier has no key 'final_sparcity'; did you mean 'final_sparsity'?",
        "15: TrainableParamsModifier needs params and trainable",
        "17: EpochRangeModifier: end_epoch 2.0 lies before start_epoch 5.0",
        "20: AnyModifier needs its keys below it",
        "21: modifiers stand here in a list",
    ]
    assert len(problems) == len(expected)
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(start)


def test_problem_of_a_node_behind_an_alias_is_told_once():
    assert "line 1" in problem_of("a: &a eval(x)\nmodifiers:\n  - &m !AnyModifier {free: [*a, *a]}\n  - *m\n")


def test_more_problems_than_anyone_reads_are_cut():
    problems = problems_of("modifiers:\n" + "".join(f"  - !X{i} {{}}\n" for i in range(200)))
    assert len(problems) == 51
    assert problems[-1].endswith("there are more problems")


def test_problem_stays_one_line_of_printable_characters():
    for name in ('"a\\nb"', '"\\e[31m"', '"\\ud800"'):
        problem = problem_of(f"modifiers:\n  - !AnyModifier\n    {name}: 1\n")
        assert problem.isprintable()


def test_error_survives_pickling():
    with pytest.raises(RecipeError) as caught:
        load("a: eval(b)\nc: eval(d)\nmodifiers: []")
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


# ---- learning rates


# ---- writing


def test_what_is_written_is_resolved_and_holds_what_was_given():
    text = "__metadata__: {a: 1}\nn: &n 30\nm: eval(n * 2)\nmodifiers:\n"
    text += "  - !AnyModifier {whole: 0, number: *n, names: &l [a, '2:4', 1e5x], free: {x: *l, y: *l}, text: 2:4}\n"
    assert load(text, "n=3").to_yaml() == (
        "__metadata__:\n  a: 1\n  variables: {n: 3, m: 6}\n"
        "modifiers:\n- !AnyModifier\n  number: 3.0\n  whole: 0\n  text: '2:4'\n"
        "  names: [a, '2:4', 1e5x]\n  free:\n    x: [a, '2:4', 1e5x]\n    y: [a, '2:4', 1e5x]\n"
    )
    assert load("modifiers: []").to_yaml() == "modifiers: []\n"
    assert load("modifiers: [!AnyModifier ]").to_yaml() == "modifiers:\n- !AnyModifier {}\n"


def test_written_strings_stay_strings_to_any_yaml_reader():
    texts = [
        "2:4",
        "1e5",
        "0o17",
        "yes",
        "2026-11-23",
        "",
        "null",
        "~",
        "<<",
        "=",
        "012",
        "a: b",
        "# a",
        "é\U0001f600",
        "a\nb",
    ]
    recipe = load("modifiers:\n  - !AnyModifier\n    names: " + json.dumps(texts, ensure_ascii=False))
    assert load(recipe.to_yaml()).modifiers[0].names == texts
    assert yaml.safe_load(recipe.to_yaml().replace("!AnyModifier", ""))["modifiers"][0]["names"] == texts


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12).filter(
    # Not a reference, an expression or a name with a quote at one end only.
    lambda text: text != "<<" and not text.startswith("eval(") and (text[:1] in "'\"") == (text[-1:] in "'\"")
)
NUMBER = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | NUMBER, inner, max_size=4),
    max_leaves=12,
)
ANY_MODIFIER = st.builds(
    AnyModifier,
    number=st.floats(allow_nan=False, allow_infinity=False),
    whole=st.integers(-(2**63), 2**63),
    text=TEXT,
    switch=st.booleans(),
    either=st.floats(allow_nan=False, allow_infinity=False) | TEXT | st.none(),
    names=st.lists(TEXT, max_size=4),
    groups=st.dictionaries(st.floats(0, 1), st.lists(TEXT, max_size=3), max_size=3),
    free=PLAIN,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY_MODIFIER, max_size=3), st.dictionaries(TEXT, PLAIN, max_size=3))
def test_any_recipe_survives_writing(modifiers, variables):
    recipe = Recipe(modifiers, variables, {"a": [1, "2:4"]}, "x.md", [])
    again = load_recipe(recipe.to_yaml(), modifiers=ALL)
    assert again.modifiers == recipe.modifiers
    assert again.metadata == recipe.metadata | ({"variables": variables} if variables else {})


# ---- hostile recipes
