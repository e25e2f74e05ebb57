"""Arithmetic in recipes."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.loading import field_of, problem_of
from sparsification.recipe.expressions import ExpressionError, evaluate


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


@settings(max_examples=300, deadline=None)
@given(st.text("ab123.()+-*/%, e_\\'\"[]xmin", max_size=40))
def test_random_expression_is_a_number_or_an_expression_error(expression):
    try:
        value = evaluate(expression, dict.fromkeys("abe", 2).get)
    except ExpressionError:
        return
    assert type(value) in (int, float)
    assert math.isfinite(value)
