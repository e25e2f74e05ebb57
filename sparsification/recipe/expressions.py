"""Numbers and arithmetic expressions of a recipe, such as ``3e-5`` and ``num_epochs * 0.1``.

A recipe is untrusted, so that Python's ``eval`` is never used. An expression is parsed into a syntax tree, whose nodes
must be of a few allowed types. The length of the text, the depth of the tree, integers and exponents are bounded before
anything is computed with them.
"""

import ast
import math
import operator
import re
from collections.abc import Callable

from sparsification.errors import SparsificationError

# Integers and decimals as YAML writes them. Unlike in YAML 1.1, 2:4 (124 in base 60), .inf and .nan are strings, and
# 1e-5 is a number.
INT = re.compile(r"[-+]?(?:0x[0-9a-fA-F_]+|0o[0-7_]+|0b[01_]+|[0-9][0-9_]*)\Z")
FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*|[0-9][0-9_]*(?=[eE]))(?:[eE][-+]?[0-9]+)?\Z")

MAX_LENGTH = 1000  # characters
MAX_DEPTH = 50
MAX_INT = 2**64  # absolute value

_OPERATORS: dict[type, Callable] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_FUNCTIONS: dict[str, tuple[Callable, int, int]] = {  # name: function, fewest and most arguments
    "abs": (abs, 1, 1),
    "float": (float, 1, 1),
    "int": (int, 1, 1),
    "max": (max, 2, 50),
    "min": (min, 2, 50),
    "round": (round, 1, 2),
}
_ALLOWED = f"only numbers, variables, + - * / // % **, parentheses and {', '.join(_FUNCTIONS)} are"


class ExpressionError(SparsificationError, ValueError):
    """An expression is not valid, or its value is not a finite number."""


def parse_number(text: str) -> int | float:
    """Read a number as YAML writes it.

    Raises:
        ExpressionError: the text is not a number, or the number is too large.
    """
    # Python refuses to read thousands of digits with a ValueError.
    if len(text) > MAX_LENGTH or not (INT.match(text) or FLOAT.match(text)):
        raise ExpressionError(f"{text[:60]!r} is not a number")
    try:
        value = int(text, 0) if INT.match(text) else float(text)
    except ValueError as error:  # 007 (decimal or octal?) and 1__0
        raise ExpressionError(f"{text[:60]!r} is not a number") from error
    return _number(value, text[:60])


def evaluate(expression: str, lookup: Callable[[str], object]) -> int | float:
    """Evaluate an arithmetic expression.

    It may contain numbers, ``+ - * / // % **``, signs, parentheses, names, and ``abs float int max min round``.

    Args:
        expression: the text between the parentheses of ``eval(...)``.
        lookup: returns the value of a name; its exceptions are not caught.

    Returns:
        A finite number; the absolute value of an integer is at most ``MAX_INT``.

    Raises:
        ExpressionError: the expression is not valid, or its value is not such a number.
    """
    if len(expression) > MAX_LENGTH:
        raise ExpressionError(f"an expression must have at most {MAX_LENGTH} characters, got {len(expression)}")
    if strange := re.search(r"[^\w\s.,()+*/%-]", expression):
        raise ExpressionError(f"{strange.group()!r} is not allowed: {_ALLOWED}")
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        raise ExpressionError("this is not an arithmetic expression") from error
    except (RecursionError, MemoryError) as error:  # limits of Python's parser
        raise ExpressionError("the expression is nested too deeply") from error
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and node not in called}
    return _walk(tree.body, {name: _number(lookup(name), repr(name)) for name in sorted(names)}, depth=0)


def _walk(node: ast.expr, values: dict[str, int | float], depth: int) -> int | float:
    if depth > MAX_DEPTH:
        raise ExpressionError(f"an expression must be nested at most {MAX_DEPTH} deep")
    match node:
        case ast.Constant(value=value):
            return _number(value, repr(value)[:60])
        case ast.Name(id=name):
            return values[name]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            operands = [_walk(left, values, depth + 1), _walk(right, values, depth + 1)]
            if isinstance(op, ast.Pow) and isinstance(operands[0], int) and operands[1] > 64 and abs(operands[0]) > 1:
                raise ExpressionError("the result is too large")
            return _apply(_OPERATORS[type(op)], operands)
        case ast.UnaryOp(op=op, operand=operand) if type(op) in _OPERATORS:
            return _apply(_OPERATORS[type(op)], [_walk(operand, values, depth + 1)])
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            function, fewest, most = _FUNCTIONS[name]
            if not fewest <= len(arguments) <= most:
                raise ExpressionError(f"{name}() takes {_count(fewest, most)}, got {len(arguments)}")
            operands = [_walk(argument, values, depth + 1) for argument in arguments]
            if name == "round" and not all(isinstance(digits, int) and abs(digits) <= 20 for digits in operands[1:]):
                raise ExpressionError("the digits of round() must be an integer in [-20, 20]")
            return _apply(function, operands)
        case ast.Call(func=ast.Name(id=name)) if name not in _FUNCTIONS:
            raise ExpressionError(f"unknown function {name!r}; the functions are {', '.join(_FUNCTIONS)}")
    raise ExpressionError(f"this is not allowed: {_ALLOWED}")


def _count(fewest: int, most: int) -> str:
    if fewest == most:
        return "1 argument" if most == 1 else f"{most} arguments"
    return f"{fewest} to {most} arguments"


def _apply(function: Callable, operands: list[int | float]) -> int | float:
    try:
        return _number(function(*operands), "the result")
    except ZeroDivisionError as error:
        raise ExpressionError("division by zero") from error
    except OverflowError as error:
        raise ExpressionError("the result is too large") from error


def _number(value: object, what: str) -> int | float:
    # Not isinstance: True is an int, and a subclass could redefine the operators.
    if type(value) is int and abs(value) <= MAX_INT or type(value) is float and math.isfinite(value):
        return value
    if type(value) in (int, float):
        raise ExpressionError(f"{what} is too large")
    raise ExpressionError(f"{what} is not a number")
