"""Overrides of a recipe's variables."""

import pytest

from helpers.loading import field_of, load, problems_of

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
