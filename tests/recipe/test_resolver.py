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


def test_a_few_variables_of_variables_are_not_hostile():
    text = "\n".join(["v0: 1"] + [f"v{i}: eval(v{i - 1} + 1)" for i in range(1, 30)][::-1])
    assert load(text + "\nmodifiers: []").variables["v29"] == 30
