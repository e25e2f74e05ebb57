"""Reading of valid, invalid and hostile recipes; tests/parity compares with SparseML."""

import json
import math
import pickle
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hostile_recipes import HOSTILE
from sparsification.modifiers import MODIFIERS, Modifier
from sparsification.recipe.document import RecipeError
from sparsification.recipe.expressions import ExpressionError, evaluate
from sparsification.recipe.loader import load_recipe
from sparsification.recipe.model import Recipe


@dataclass(kw_only=True)
class AnyModifier(Modifier):
    """A field of every kind that an annotation can ask for."""

    number: float = 0.0
    whole: int = 0
    text: str = ""
    switch: bool = False
    either: float | str | None = None
    names: list[str] = field(default_factory=list)
    groups: float | dict[float, list[str]] = 0.0
    free: object = None


ALL = MODIFIERS | {"AnyModifier": AnyModifier}


def load(text: str, recipe_args: str | dict | None = None):
    return load_recipe(text + "\n", recipe_args, modifiers=ALL)


def field_of(yaml_value: str, key: str = "free", head: str = "", recipe_args: str | dict | None = None) -> object:
    """What a value becomes in a field of a modifier."""
    return getattr(
        load(f"{head}\nmodifiers:\n  - !AnyModifier\n    {key}: {yaml_value}", recipe_args).modifiers[0], key
    )


def problems_of(text: str | Path, recipe_args: str | dict | None = None) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(text, recipe_args, modifiers=ALL)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def problem_of(text: str | Path, recipe_args: str | dict | None = None) -> str:
    (problem,) = problems_of(text, recipe_args)
    return problem


# ---- where a recipe stands

RANGE = "modifiers:\n  - !EpochRangeModifier\n    end_epoch: 3.0\n"


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".yaml", RANGE),
        (".yml", RANGE),
        (".YAML", "---\n" + RANGE),
        (".yaml", "\ufeff" + RANGE),
        (".md", f"---\n{RANGE}---\n"),
        (".md", f"+++\n{RANGE}+++\n# Title\n---\nmore: {{text\n"),
        (".md", f"\n<!-- licence\n---\n-->\n\n<!-- and more -->\n--- \n{RANGE}---  \ntext"),
        (".md", f"---\n{RANGE}---\n".replace("\n", "\r\n")),
    ],
)
def test_recipe_is_found_in_file(tmp_path, suffix, text):
    path = tmp_path / f"recipe{suffix}"
    path.write_bytes(text.encode())
    for source in (path, str(path)):
        recipe = load_recipe(source)
        assert recipe.modifiers[0].end_epoch == 3.0
        assert recipe.source == str(path)


@pytest.mark.parametrize("text", [RANGE, "---\n" + RANGE, f"---\n{RANGE}---\n# Title", f"+++\n{RANGE}+++\n"])
def test_recipe_is_found_in_text(text):
    recipe = load_recipe(text)
    assert (recipe.modifiers[0].end_epoch, recipe.source) == (3.0, "<recipe>")


def test_lines_are_counted_from_the_top_of_the_file(tmp_path):
    path = tmp_path / "recipe.md"
    path.write_text("<!--\nlicence\n-->\n---\nmodifiers:\n  - !EpochRangeModifier\n    end_epoch: x\n---\n")
    assert problem_of(path).startswith(f"{path}, line 7: EpochRangeModifier: end_epoch must be a number, got 'x'")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.md", RANGE, "must begin with YAML between two lines '---'"),
        ("x.md", "# Title\n---\n" + RANGE + "---\n", "must begin with YAML between two lines '---'"),
        ("x.md", "---\n" + RANGE, "line 1: the front matter has no closing line '---'"),
        ("x.md", "<!-- -->\n+++\n" + RANGE + "---\n", "line 2: the front matter has no closing line '+++'"),
        ("x.md", "---\n---\n", "is empty"),
        ("x.yaml", "", "is empty"),
        ("x.yaml", " \n# only a comment\n", "is empty"),
        ("x.yaml", "a: 1\n", "a recipe needs a list 'modifiers:'"),
        ("x.yaml", "modifiers:\n", "a recipe needs a list 'modifiers:'"),
        ("x.yaml", "just words\n", "line 1: a recipe must be a mapping or a list of modifiers, got a string"),
        ("x.yaml", b"a: 1\nb: \xff\n", "line 2: the file must be UTF-8"),
        ("x.yaml", "#" * 1_000_001, "at most 1000000 bytes"),
        ("x.txt", RANGE, "a recipe must be a .yaml, .yml or .md file"),
        ("x.yaml", "a: [1, 2\nb: 3\n", "line 2: "),
        ("x.yaml", "a: 1\n\tb: 2\n", "line 2: found character '\\\\t'"),
        ("x.yaml", "a: *b\n", "line 1: found undefined alias"),
        ("x.yaml", "---\na: 1\n---\nb: 1\n", "line 3: but found another document"),
        ("x.yaml", "a: 1\nb: \x01\n", "line 2: a character that YAML does not allow"),
    ],
)
def test_file_without_a_recipe_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    problem = problem_of(path)
    assert problem.startswith(str(path))
    assert message.replace("\\\\", "\\") in problem
    assert problem.count("\n") == 0


def test_missing_file_and_directory_are_refused(tmp_path):
    (tmp_path / "prune80.md").write_text("")
    assert problem_of(tmp_path) == f"{tmp_path}: is not a file"
    assert problem_of(tmp_path / "prune8.md").endswith("no such file; did you mean 'prune80.md'?")
    assert problem_of(str(tmp_path / "no" / "x.md")).endswith("no such file")
    for name in ("", "a\0b.yaml", "x" * 5000 + ".yaml", "zoo:nlp/bert"):
        problem_of(name)


def test_raw_text_over_the_limit_is_refused():
    assert "at most 1000000 characters" in problem_of("#\n" * 600_000)


# ---- values


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("3.0", 3.0),
        ("5e-5", 5e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("0x10", 16),
        ("-2", -2),
        ("2:4", "2:4"),
        ("1:30.5", "1:30.5"),
        ("2026-11-23", "2026-11-23"),
        (".inf", ".inf"),
        ("'3'", "3"),
        ("yes", True),
        ("Off", False),
        ("~", None),
        ("", None),
        ("None", "None"),
        ("__ALL__", "__ALL__"),
        ("re:.*weight", "re:.*weight"),
        ("[1, 4]", [1, 4]),
        ("{0.7: [a, b], 0.9: [c]}", {0.7: ["a", "b"], 0.9: ["c"]}),
        ("eval(1 + 1)", 2),
        ("'eval(7 / 2)'", 3.5),
        ("[eval(1), {eval(2 * 0.5): eval(3)}]", [1, {1.0: 3}]),
    ],
)
def test_plain_text_becomes_value(text, value):
    read = field_of(text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("number", "3", 3.0),
        ("number", "'5e-5'", 5e-5),
        ("whole", "64.0", 64),
        ("whole", "eval(8 / 2)", 4),
        ("switch", "1", True),
        ("text", "2:4", "2:4"),
        ("either", "0", 0.0),
        ("either", "__FROM_PARAM__", "__FROM_PARAM__"),
        ("either", "null", None),
        ("names", "[a, '1']", ["a", "1"]),
        ("groups", "{0.7: [a], 1: []}", {0.7: ["a"], 1.0: []}),
    ],
)
def test_value_is_converted_to_the_type_of_its_field(key, text, value):
    read = field_of(text, key)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("number", "abc", "AnyModifier: number must be a number, got 'abc'"),
        ("number", "yes", "must be a number, got true (YAML reads yes, no, on and off as true and false: quote them)"),
        ("number", ".nan", "must be a number, got '.nan'"),
        ("number", "[1]", "must be a number, got [1]"),
        ("number", "", "must be a number, got null"),
        ("whole", "1.5", "must be an integer, got 1.5"),
        ("text", "3", "must be a string, got 3"),
        ("switch", "2", "must be true or false, got 2"),
        ("names", "abc", "must be a list (a string each), got 'abc'"),
        ("names", "[a, 1]", "must be a list (a string each), got ['a', 1]"),
        ("either", "[]", "must be a number or a string or null, got []"),
        ("groups", "{a: [b]}", "must be a number or a mapping (from a number to a list (a string each))"),
        ("free", "007", "'007' is not a number"),
        ("free", "1.0e+999", "is too large"),
        ("free", "99999999999999999999999", "is too large"),
        ("free", "9" * 5000, "is not a number"),
        ("free", "{a: 1, a: 2}", "duplicate key 'a'"),
        ("free", "{0.5: 1, 0.50: 2}", "duplicate key 0.5"),
        ("free", "{<<: {a: 1}}", "merge keys"),
        ("free", "{[a]: 1}", "a key must be a number or a string"),
        ("free", "!AnyModifier {}", "the tag '!AnyModifier' is not allowed here"),
        ("free", "!!binary aGk=", "the tag '!!binary' is not allowed here"),
        ("free", "!!timestamp 2026-11-23", "the tag '!!timestamp' is not allowed here"),
        ("free", "!!set {a, b}", "the tag '!!set' is not allowed here"),
        ("free", "!!str [a]", "the tag '!!str' is not allowed here"),
    ],
)
def test_value_of_a_wrong_type_is_refused_with_its_line(key, text, message):
    problem = problem_of(f"modifiers:\n  - !AnyModifier\n    start_epoch: 1\n    {key}: {text}\n")
    assert problem.startswith("<recipe>, line 4: ")
    assert message in problem


# ---- variables, arithmetic, overrides


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("a ** 2", 16),
        ("-a + +b", -1.5),
        ("(a - 1) * 2 / 3", 2.0),
        ("a // 3 % 2", 1),
        ("max(a, b, 9) - min(a, b)", 6.5),
        ("abs(-3) + int(2.9) + float(1)", 6.0),
        ("round(2.567, 1)", 2.6),
        ("round(2.5)", 2),
        ("2 ** 64 - 1", 2**64 - 1),
        ("2 ** -1", 0.5),
    ],
)
def test_arithmetic_is_python_s(expression, value):
    assert evaluate(expression, {"a": 4, "b": 2.5}.get) == value
    assert field_of(f"eval({expression})", head="a: 4\nb: 2.5") == value


@pytest.mark.parametrize(
    "expression",
    [
        "1 / 0",
        "1 % 0",
        "0.0 ** -1",
        "(-1) ** 0.5",
        "10.0 ** 400",
        "9 ** 65",
        "10**9**9",
        "(2 ** 64) * 2",
        "1e999",
        "2 > 1",
        "not 1",
        "~1",
        "1 << 99",
        "True",
        "None",
        "'a' * 10**9",
        "10**9 * 'a'",
        "b'a'",
        "1j",
        "[1][0]",
        "(1, 2)",
        "a.real",
        "().__class__.__bases__",
        "a.__class__",
        "__import__('os').getpid()",
        "__builtins__",
        "__name__",
        "open('/etc/passwd')",
        "(lambda: 1)()",
        "[x for x in (1,)]",
        "(x := 3)",
        "f'{1}'",
        "min(3)",
        "max()",
        "max(*[1, 2])",
        "round(1, ndigits=2)",
        "round(5, -10**9)",
        "round(1.5, 10**9)",
        "int('9' * 5000)",
        "pow(2, 3)",
        "1; 2",
        "a = 1",
        "",
        "1 +",
        "(" * 300 + "1" + ")" * 300,
        "-" * 900 + "1",
        "+".join(["1"] * 400),
        "9" * 900,
        "9" * 5000,
        "1\0",
        "\ud800",
    ],
)
def test_expression_that_is_not_arithmetic_is_refused(expression):
    with pytest.raises((ExpressionError, KeyError)):
        evaluate(expression, {"a": 1}.__getitem__)
    # JSON is how a text with any character gets into YAML.
    assert "eval(" in problem_of(f"a: 1\nmodifiers:\n  - !AnyModifier\n    free: {json.dumps(f'eval({expression})')}\n")


def test_variables_refer_to_variables_in_any_order():
    recipe = load("c: eval(b * 2)\nb: eval(a + 1)\na: 1\nname: eval(c)\nmodifiers: []")
    assert recipe.variables == {"c": 4, "b": 2, "a": 1, "name": 4}
    assert (recipe.modifiers, recipe.stages, recipe.metadata) == ([], [], None)


def test_variable_alone_may_be_text_list_or_mapping():
    head = "t: 2:4\nl: [a, eval(n)]\nd: {0.5: [x]}\nn: 3\nodd-name: [1]\nempty:"
    assert field_of("[eval(t), eval( l ), eval(d)]", head=head) == ["2:4", ["a", 3], {0.5: ["x"]}]
    assert field_of("eval(odd-name)", head=head) == [1]
    assert field_of("eval(empty)", head=head) is None
    assert "'l' is not a number" in problem_of(f"{head}\nmodifiers:\n  - !AnyModifier\n    free: eval(l + 1)\n")


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("a: eval(a)", "line 1: 'eval(a)': the variable 'a' refers to itself"),
        ("a: eval(b + 1)\nb: eval(c)\nc: eval(a * 2)", "line 3: 'eval(a * 2)': the variable 'a' refers to itself"),
        (
            "epochs: 3\na: eval(epoch + 1)",
            "line 2: 'eval(epoch + 1)': unknown variable 'epoch'; did you mean 'epochs'?",
        ),
        ("a: eval(zzz)", "line 1: 'eval(zzz)': unknown variable 'zzz'; its variables are 'a'"),
        ("a: eval(1", "line 1: 'eval(1': the last parenthesis is missing"),
        ("a: eval(1) + eval(2)", "this is not an arithmetic expression"),
        ("a: 1\nb: 2\na: 3", "line 3: duplicate key 'a'"),
        ("[a]: 1", "line 1: a key must be a name"),
        ("<<: {a: 1}", "line 1: merge keys"),
    ],
)
def test_invalid_variable_is_reported_once(head, message):
    text = f"{head}\nmodifiers:\n  - !AnyModifier\n    free: [eval(a), eval(a)]\n    number: eval(a)\n"
    assert message in (problem_of(text) if "[a]" not in head and "<<" not in head else problems_of(text)[0])


OVERRIDABLE = """
epochs: &epochs 30
half: eval(epochs / 2)
groups: &groups [1, 2]
again: *epochs
modifiers:
  - !AnyModifier
    free: [*epochs, eval(epochs), eval(half), *groups, eval(again)]
"""


@pytest.mark.parametrize(
    ("arguments", "free"),
    [
        (None, [30, 30, 15.0, [1, 2], 30]),
        ({}, [30, 30, 15.0, [1, 2], 30]),
        (" ", [30, 30, 15.0, [1, 2], 30]),
        ("epochs=4", [4, 4, 2.0, [1, 2], 4]),
        ("epochs:4", [4, 4, 2.0, [1, 2], 4]),
        (" epochs = 1e1 , half=7", [10.0, 10.0, 7, [1, 2], 10.0]),
        ("half=eval(epochs * 2)", [30, 30, 60, [1, 2], 30]),
        ("again=5", [30, 30, 15.0, [1, 2], 5]),
        ('{"epochs": 4, "groups": [3]}', [4, 4, 2.0, [3], 4]),
        ({"epochs": 1e-05, "groups": "__ALL__"}, [1e-05, 1e-05, 5e-06, "__ALL__", 1e-05]),
        ({"groups": {"0.5": ["ü\U0001f600"]}}, [30, 30, 15.0, {"0.5": ["ü\U0001f600"]}, 30]),
    ],
)
def test_override_reaches_anchors_and_arithmetic(arguments, free):
    assert load(OVERRIDABLE, arguments).modifiers[0].free == free


def test_override_may_hold_a_colon_a_boolean_or_null():
    head = "mask: unstructured\nflag: off\nnone: 1"
    assert field_of("eval(mask)", "text", head, "mask=2:4") == "2:4"
    assert field_of("eval(flag)", "switch", head, "flag=true") is True
    assert field_of("eval(none)", "either", head, {"none": None}) is None


def test_override_reaches_the_variables_of_stages():
    text = "n: 1\none:\n  n: 2\n  modifiers:\n    - !AnyModifier\n      free: eval(n)\n"
    text += "two:\n  modifiers:\n    - !AnyModifier\n      free: eval(n)\n"
    assert [m.free for m in load(text).modifiers] == [2, 1]
    assert [m.free for m in load(text, "n=7").modifiers] == [7, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("epoch=3", "recipe_args: the recipe has no variable 'epoch'; did you mean 'epochs'?"),
        (
            "zzz=3",
            "recipe_args: the recipe has no variable 'zzz'; its variables are 'epochs', 'half', ",
        ),
        ("modifiers=3", "recipe_args: the recipe has no variable 'modifiers'"),
        ("epochs", "recipe_args: 'epochs' is not name=value"),
        ("epochs=3,", "recipe_args: '' is not name=value"),
        ("epochs=3,epochs=4", "recipe_args: duplicate key 'epochs'"),
        ('{"epochs": 3, "epochs": 4}', "recipe_args: duplicate key 'epochs'"),
        ('{"epochs": 3', "recipe_args, line 1: "),
        ({"epochs": object()}, "recipe_args: "),
        ('{"epochs": !!python/name:os.system ""}', "recipe_args: the tag '!!python/name:os.system' is not allowed"),
        ("epochs=eval(nope)", "recipe_args: 'eval(nope)': unknown variable 'nope'"),
    ],
)
def test_invalid_override_is_refused(arguments, message):
    assert any(message in problem for problem in problems_of(OVERRIDABLE, arguments))


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


def test_stages_see_the_variables_of_the_recipe_and_their_own():
    text = "a: 1\nb: 2\nfirst:\n  b: eval(a + 10)\n  x_modifiers:\n    - !AnyModifier {free: [eval(a), eval(b)]}\n"
    text += "second:\n  y_modifiers:\n    - !AnyModifier {free: eval(b)}\n"
    recipe = load(text)
    assert [modifier.free for modifier in recipe.modifiers] == [[1, 11], 2]
    assert (recipe.stages, recipe.variables) == (["first", "second"], {"a": 1, "b": 2})
    assert "unknown variable 'c'" in problem_of(
        "one:\n  c: 1\n  modifiers: []\ntwo:\n  modifiers:\n  - !AnyModifier {free: eval(c)}\n"
    )


@pytest.mark.parametrize(
    ("expression", "value"), [("eval(a)", 4), ("eval(a * 2)", 8), ("[eval(a), eval(b)]", [4, 1]), ("eval(b + a)", 5)]
)
def test_a_stages_variable_reads_its_outer_namesake(expression, value):
    text = f"a: eval(2 + 2)\none:\n  b: 1\n  a: {expression}\n  modifiers:\n    - !AnyModifier {{free: eval(a)}}\n"
    recipe = load(text + "two:\n  modifiers:\n    - !AnyModifier {free: eval(a)}\n")
    assert [modifier.free for modifier in recipe.modifiers] == [value, 4]
    assert "a" not in recipe.unused_variables


def test_a_stages_variable_without_an_outer_namesake_needs_itself():
    text = "one:\n  a: eval(a)\n  modifiers: []\ntwo:\n  a: 1\n  modifiers: []\n"
    assert "line 2: 'eval(a)': the variable 'a' refers to itself" in problem_of(text)


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


def test_all_problems_are_reported_at_once_in_the_order_of_lines():
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
        "recipe_args: the recipe has no variable 'c'; its variables are 'a'",
        "1: 'eval(b)': unknown variable 'b'; its variables are 'a'",
        "4: EpochRangeModifier: end_epoch must be a number, got 'abc'",
        "5: unknown modifier 'GMPrunningModifier'; did you mean 'GMPruningModifier'?",
        "7: LayerThinningModifier requires param_group_dependency_map",
        "8: modifiers must be a list of entries",
        "9: modifiers must be a list of entries",
        "13: GMPruningModifier has no key 'final_sparcity'; did you mean 'final_sparsity'?",
        "15: TrainableParamsModifier requires params and trainable",
        "17: EpochRangeModifier: end_epoch must be at least start_epoch, got 2 and 5",
        "20: AnyModifier must be followed by its keys",
        "21: modifiers must be a list of entries",
    ]
    assert len(problems) == len(expected)
    for problem, start in zip(problems, expected, strict=True):
        assert problem.startswith(start)


def test_problem_of_a_node_behind_an_alias_is_reported_once():
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


def function(start: float, end: float, groups: str = "null") -> str:
    fields = f"start_epoch: {start}, end_epoch: {end}, param_groups: {groups}"
    return f"  - !LearningRateFunctionModifier {{lr_func: linear, init_lr: 0.1, final_lr: 0.0, {fields}}}\n"


def setting(start: float, groups: str = "null") -> str:
    return f"  - !SetLearningRateModifier {{learning_rate: 0.1, start_epoch: {start}, param_groups: {groups}}}\n"


def stepping(start: float, end: float) -> str:
    fields = f"start_epoch: {start}, end_epoch: {end}"
    return f"  - !LearningRateModifier {{lr_class: ExponentialLR, lr_kwargs: {{gamma: 0.9}}, init_lr: 0.1, {fields}}}\n"


@pytest.mark.parametrize(
    ("lines", "fights"),
    [
        (function(0, 1) + function(1, 3), False),
        (function(1, 3) + function(0, 1), False),
        (function(0, 2) + function(1, 3), True),
        (function(0, 9) + function(1, 3), True),
        (function(0, 9, "[0]") + function(1, 3, "[1]"), False),
        (function(0, 9, "[0, 1]") + function(1, 3, "[1]"), True),
        (function(0, 9) + function(1, 3, "[1]"), True),
        (function(-1, 3) + function(2, 4), True),
        (stepping(0, -1) + function(5, 6), True),
        (stepping(0, 5) + function(5, 6), False),
        (setting(0) + function(0, 5), False),
        (setting(5) + function(0, 5), False),
        (setting(2) + function(0, 5), True),
        (function(0, 5) + setting(2), True),
        (setting(2, "[1]") + function(0, 5, "[0]"), False),
        (setting(0) + setting(2), False),
        (setting(2) + setting(2), True),
        (setting(-1) + setting(0), True),
    ],
)
def test_two_modifiers_that_set_one_learning_rate_are_refused(lines, fights):
    if fights:
        problem = problem_of("modifiers:\n" + lines)
        assert problem.startswith("<recipe>, line 3: ")
        assert "sets the same learning rate as the" in problem
        assert "of line 2" in problem
    else:
        assert len(load("modifiers:\n" + lines).modifiers) == 2


def test_two_epoch_ranges_do_not_conflict():
    assert len(load(RANGE + "  - !EpochRangeModifier\n    end_epoch: 9.0\n").modifiers) == 2


# ---- writing


def test_written_recipe_is_resolved_and_has_the_explicit_keys():
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


SAID = {
    **dict.fromkeys(("object tag", "name tag", "module tag", "verbatim tag"), "' is not allowed here"),
    **dict.fromkeys(("import", "attribute", "big shift"), " is not allowed: only numbers, variables"),
    **dict.fromkeys(("billion laughs", "deep brackets", "list that holds itself"), "the recipe is too large"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_recipe_ends_in_one_error_soon(name):
    start = time.process_time()
    problems = problems_of(HOSTILE[name])
    assert SAID.get(name, "") in problems[0]
    assert time.process_time() - start < 5
    assert max(map(len, problems)) < 1000
    assert not Path("/tmp/owned").exists()


def test_a_few_variables_of_variables_are_not_hostile():
    text = "\n".join(["v0: 1"] + [f"v{i}: eval(v{i - 1} + 1)" for i in range(1, 30)][::-1])
    assert load(text + "\nmodifiers: []").variables["v29"] == 30


WORDS = st.sampled_from(
    [
        *"[]{}:,-?*&!|>'\"%@`#\n\n\n\n  ",
        "- ",
        ": ",
        "a",
        "b",
        "&a",
        "*a",
        "!AnyModifier",
        "modifiers:",
        "\n  - ",
        "\n    ",
    ]
    + [
        "eval(",
        ")",
        "a + b",
        "1e5",
        "0x",
        "1:2",
        "---\n",
        "+++\n",
        "<!--",
        "-->",
        "free: ",
        "__metadata__:",
        "<<",
        "\t",
        "\0",
    ]
    + ["!!python/name:os.system", "!!str", "!!int", "%YAML 1.1\n", "\\U", "\\x", "\ud800", "…", "\u2028", "\x85", "7"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=40).map("".join) | st.text(max_size=80), st.none() | st.text(max_size=20))
def test_random_text_is_a_recipe_or_a_recipe_error(text, arguments):
    try:
        recipe = load_recipe(text + "\n", arguments, modifiers=ALL)
    except RecipeError as error:
        assert error.problems
        assert str(error).replace("\n", "").isprintable()
    else:
        recipe.to_yaml()


@settings(max_examples=300, deadline=None)
@given(st.text("ab123.()+-*/%, e_\\'\"[]xmin", max_size=40))
def test_random_expression_is_a_number_or_an_expression_error(expression):
    try:
        value = evaluate(expression, dict.fromkeys("abe", 2).get)
    except ExpressionError:
        return
    assert type(value) in (int, float)
    assert math.isfinite(value)
