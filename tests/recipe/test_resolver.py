"""Variables of a recipe and what overrides them."""

import pytest

from helpers.loading import field_of, load, problem_of, problems_of


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
        ("a: eval(a)", "line 1: 'eval(a)': the variable 'a' needs itself"),
        ("a: eval(b + 1)\nb: eval(c)\nc: eval(a * 2)", "line 3: 'eval(a * 2)': the variable 'a' needs itself"),
        (
            "epochs: 3\na: eval(epoch + 1)",
            "line 2: 'eval(epoch + 1)': there is no variable 'epoch'; did you mean 'epochs'?",
        ),
        ("a: eval(zzz)", "line 1: 'eval(zzz)': there is no variable 'zzz'; there are 'a'"),
        ("a: eval(1", "line 1: 'eval(1': the last parenthesis is missing"),
        ("a: eval(1) + eval(2)", "this is not an arithmetic expression"),
        ("a: 1\nb: 2\na: 3", "line 3: the key 'a' stands here twice"),
        ("[a]: 1", "line 1: a key is a name"),
        ("<<: {a: 1}", "line 1: merge keys"),
    ],
)
def test_wrong_variable_is_told_once_however_often_it_is_used(head, message):
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
        ("zzz=3", "recipe_args: the recipe has no variable 'zzz'; there are 'epochs', 'half', 'groups', 'again'"),
        ("modifiers=3", "recipe_args: the recipe has no variable 'modifiers'"),
        ("epochs", "recipe_args: 'epochs' is not name=value"),
        ("epochs=3,", "recipe_args: '' is not name=value"),
        ("epochs=3,epochs=4", "recipe_args: the key 'epochs' stands here twice"),
        ('{"epochs": 3, "epochs": 4}', "recipe_args: the key 'epochs' stands here twice"),
        ('{"epochs": 3', "recipe_args, line 1: "),
        ({"epochs": object()}, "recipe_args: "),
        ('{"epochs": !!python/name:os.system ""}', "recipe_args: the tag '!!python/name:os.system' is not allowed"),
        ("epochs=eval(nope)", "recipe_args: 'eval(nope)': there is no variable 'nope'"),
    ],
)
def test_wrong_override_is_told(arguments, message):
    assert any(message in problem for problem in problems_of(OVERRIDABLE, arguments))


def test_stages_see_the_variables_of_the_recipe_and_their_own():
    text = "a: 1\nb: 2\nfirst:\n  b: eval(a + 10)\n  x_modifiers:\n    - !AnyModifier {free: [eval(a), eval(b)]}\n"
    text += "second:\n  y_modifiers:\n    - !AnyModifier {free: eval(b)}\n"
    recipe = load(text)
    assert [modifier.free for modifier in recipe.modifiers] == [[1, 11], 2]
    assert (recipe.stages, recipe.variables) == (["first", "second"], {"a": 1, "b": 2})
    assert "no variable 'c'" in problem_of(
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
    assert "line 2: 'eval(a)': the variable 'a' needs itself" in problem_of(text)


def test_a_few_variables_of_variables_are_not_hostile():
    text = "\n".join(["v0: 1"] + [f"v{i}: eval(v{i - 1} + 1)" for i in range(1, 30)][::-1])
    assert load(text + "\nmodifiers: []").variables["v29"] == 30
