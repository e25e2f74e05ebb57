"""Conversion of a recipe's values to the types of the fields."""

import pytest

from helpers.loading import field_of, problem_of


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
