"""Conversion of a recipe's values to the types of a modifier's fields, which their annotations define."""

import reprlib
import types
import typing
from typing import Any, Literal, Union

from sparsification.recipe.expressions import ExpressionError, parse_number

_NAMES = {
    float: "a number",
    int: "an integer",
    bool: "true or false",
    str: "a string",
    types.NoneType: "null",
    list: "a list",
    dict: "a mapping",
    object: "anything",
    Any: "anything",
}
_shortener = reprlib.Repr()
_shortener.maxstring = 60


class _TypeMismatch(Exception):
    pass


def show(value: object) -> str:
    """Return a value as a recipe writes it, cut to a readable length."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _shortener.repr(value)


def coerce(value: object, annotation: Any) -> object:
    """Convert a value to the type of an annotation.

    Integers are converted to floats. If no type of the annotation accepts a value unchanged, 64.0 is converted to an
    integer, a string such as ``5e-5`` to a number, and 0 and 1 to false and true.

    Args:
        value: numbers, strings, booleans, None, and lists and dicts of them.
        annotation: int, float, bool, str, None, list[...], dict[...], Literal, unions of these, or Any.

    Returns:
        The converted value.

    Raises:
        ValueError: it has another type; the message names the types and the value.
    """
    for lenient in (False, True):
        try:
            return _coerce(value, annotation, lenient)
        except _TypeMismatch:
            pass
    quote = " (YAML reads yes, no, on and off as true and false: quote them)" if isinstance(value, bool) else ""
    raise ValueError(f"must be {describe(annotation)}, got {show(value)}{quote}")


def describe(annotation: Any) -> str:
    """Describe an annotation in words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is None or annotation in _NAMES:
        return _NAMES[annotation or types.NoneType]
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(show(argument) for argument in arguments)
    if origin is list:
        return f"a list ({describe(arguments[0])} each)"
    if origin is dict:
        return f"a mapping (from {describe(arguments[0])} to {describe(arguments[1])})"
    raise TypeError(f"a field of a recipe cannot have the type {annotation}")


def _coerce(value: object, annotation: Any, lenient: bool) -> object:
    origin, arguments = typing.get_origin(annotation) or annotation, typing.get_args(annotation)
    if origin in (Any, object):
        return value
    if origin in (Union, types.UnionType):
        for argument in arguments:
            try:
                return _coerce(value, argument, lenient)
            except _TypeMismatch:
                pass
    elif origin is list and isinstance(value, list):
        item = arguments[0] if arguments else object
        return [_coerce(element, item, lenient) for element in value]
    elif origin is dict and isinstance(value, dict):
        key_type, value_type = arguments or (object, object)
        return {
            _coerce(key, key_type, lenient): _coerce(element, value_type, lenient) for key, element in value.items()
        }
    elif origin is Literal and value in arguments:
        return value
    elif origin in (None, types.NoneType) and value is None:
        return None
    elif origin in (bool, str) and type(value) is origin:
        return value
    elif origin is bool and lenient and type(value) is int and value in (0, 1):
        return bool(value)
    elif origin in (int, float):
        return _coerce_number(value, origin, lenient)
    raise _TypeMismatch


def _coerce_number(value: object, kind: type, lenient: bool) -> int | float:
    if lenient and isinstance(value, str):
        try:
            value = parse_number(value)
        except ExpressionError as error:
            raise _TypeMismatch from error
    # Not isinstance: True is an int too.
    if type(value) is int or type(value) is float and (kind is float or lenient and value.is_integer()):
        return kind(value)
    raise _TypeMismatch
