"""What value does a node of a recipe's YAML tree stand for?

Numbers, strings, booleans, null, lists and mappings: nothing else is ever made of a node, whatever its tag says.
``eval(...)`` is worked out over the variables in sight. A problem is noted with the line of its node, and from then on
``INVALID`` stands for the value, so that one reading finds every problem and tells none twice.
"""

from collections import Counter
from collections.abc import Mapping
from typing import NoReturn

from yaml import MappingNode, Node, ScalarNode, SequenceNode

from sparsification.errors import printable
from sparsification.recipe.document import CORE, MAX_DEPTH, MAX_NODES, TOO_LARGE, RecipeError, did_you_mean
from sparsification.recipe.expressions import ExpressionError, evaluate, parse_number
from sparsification.recipe.types import show

MAX_SCALAR = 100_000  # characters
MAX_PROBLEMS = 50  # told at once
ARGUMENTS = "recipe_args"  # where overrides come from, in messages
INVALID = object()  # stands for a value whose problem has been told

_BUSY = object()  # stands for the value of a variable while it is worked out
_KINDS = {ScalarNode: ("null", "bool", "int", "float", "str"), SequenceNode: ("seq",), MappingNode: ("map",)}
_QUOTES = ("'", '"')
_BOOLS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


def hint(name: str, known: list[str]) -> str:
    """End of a message about an unknown variable."""
    return did_you_mean(name, known, f"; there are {', '.join(map(show, known[:20]))}" if known else "; there are none")


class AlreadyReported(Exception):
    """A variable has no value, and its problem has been told."""


class Scope:
    """Variables of a recipe; or of one of its stages, which sees the recipe's too."""

    def __init__(self, outer: "Scope | None" = None) -> None:
        self.outer = outer
        self.nodes: dict[str, Node] = {}
        self.values: dict[str, object] = {}
        self.read: set[str] = set()  # names that an eval(...) asked for

    def owner(self, name: str) -> "Scope | None":
        """The scope that defines a name, looked for from the inside out."""
        if name in self.nodes:
            return self
        return self.outer.owner(name) if self.outer else None

    def names(self) -> list[str]:
        return [*self.nodes, *(self.outer.names() if self.outer else [])]


class _Sight(Scope):
    """What the expression of a stage's variable sees: everything in its scope, and of its own name the outer one."""

    def __init__(self, scope: Scope, name: str) -> None:
        super().__init__(scope)
        self.name = name

    def owner(self, name: str) -> Scope | None:
        return self.outer.outer.owner(name) if name == self.name else self.outer.owner(name)


class ValueReader:
    """Makes values of nodes, and keeps the problems and the size of what it has read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.replaced: dict[int, Node] = {}  # id of an overridden node: what stands in its place
        self.problems: list[tuple[int, str]] = []  # line, message
        self.nodes = self.depth = 0  # read so far, with aliases written out; of what is being read
        self.visits: Counter[int] = Counter()  # id of a node: how often its value was made, once for each alias

    def problem(self, node: Node, message: str) -> None:
        """Note what is wrong at a node, once, on one line."""
        mark = node.start_mark
        line = 0 if mark.name == ARGUMENTS else mark.line + 1
        message = printable(message)
        entry = (line, f"{mark.name}, line {line}: {message}" if line else f"{mark.name}: {message}")
        if entry not in self.problems:  # one node may be read through many aliases
            self.problems.append(entry)
        if len(self.problems) > MAX_PROBLEMS:
            raise RecipeError(*self.sorted_errors()[:MAX_PROBLEMS], f"{self.name}: and there are more problems")

    def stop(self, node: Node, message: str) -> NoReturn:
        """Note a problem that leaves no sense, or no safe way, to read on."""
        self.problem(node, message)
        raise RecipeError(*self.sorted_errors())

    def sorted_errors(self) -> list[str]:
        """All problems, by line."""
        return [message for _, message in sorted(self.problems, key=lambda entry: entry[0])]

    def count(self, node: Node) -> None:
        """Bound what a small text can grow into: aliases of aliases, and variables of variables."""
        self.nodes += 1
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH:
            self.stop(node, TOO_LARGE)

    def pairs(self, mapping: MappingNode) -> list[tuple[str, Node, Node]]:
        """Keys that are names, with the nodes of key and value."""
        found: dict[str, tuple[str, Node, Node]] = {}
        for key, value in mapping.value:
            self.count(key)
            if not isinstance(key, ScalarNode):
                self.problem(key, "a key is a name, not a list or mapping")
            elif self.is_new(key.value, key, found):
                found[key.value] = (key.value, key, value)
        return list(found.values())

    def is_new(self, name: object, key: Node, found: Mapping[object, object]) -> bool:
        """Whether a key may be added to those found so far; if not, the problem is noted."""
        if key.value == "<<":
            self.problem(key, "merge keys (<<) are not supported; write the keys out")
        elif name in found:
            self.problem(key, f"the key {show(name)} stands here twice")
        else:
            return True
        return False

    def variable(self, scope: Scope, name: str) -> object:
        """A variable that an ``eval`` reads; ``ExpressionError`` or ``AlreadyReported`` where it has no value."""
        owner = scope.owner(name)
        if owner is None:
            raise ExpressionError(f"there is no variable {show(name)}{hint(name, scope.names())}")
        owner.read.add(name)
        return self.resolve(owner, name)

    def resolve(self, owner: Scope, name: str) -> object:
        """Work out a variable of this very scope, and those that it needs; errors as above."""
        if name not in owner.values:
            owner.values[name] = _BUSY
            hides = owner.outer is not None and owner.outer.owner(name) is not None
            owner.values[name] = self.value(owner.nodes[name], _Sight(owner, name) if hides else owner)
        if owner.values[name] is _BUSY:
            raise ExpressionError(f"the variable {show(name)} needs itself")
        if owner.values[name] is INVALID:
            raise AlreadyReported
        return owner.values[name]

    def value(self, node: Node, scope: Scope | None) -> object:
        """Make plain values of a node; ``INVALID`` after a problem. Without a scope ``eval(...)`` is text."""
        node = self.replaced.get(id(node), node)
        self.visits[id(node)] += 1
        self.depth += 1
        self.count(node)
        if node.tag not in [CORE + kind for kind in _KINDS[type(node)]]:
            tag = node.tag.replace(CORE, "!!")[:60]
            self.problem(node, f"the tag '{tag}' is not allowed here; modifiers stand in lists, below '...modifiers:'")
            value = INVALID
        elif isinstance(node, ScalarNode):
            value = self.scalar(node, scope)
        elif isinstance(node, SequenceNode):
            value = [self.value(item, scope) for item in node.value]
            value = INVALID if INVALID in value else value
        else:
            value = self.mapping(node, scope)
        self.depth -= 1
        return value

    def mapping(self, node: MappingNode, scope: Scope | None) -> object:
        values: dict[object, object] = {}
        for key_node, value_node in node.value:
            key, value = self.value(key_node, scope), self.value(value_node, scope)
            if isinstance(key, list | dict):
                self.problem(key_node, "a key is a number or a string, not a list or mapping")
            elif key is not INVALID and self.is_new(key, key_node, values):
                values[key] = value
        return INVALID if INVALID in values.values() or len(values) < len(node.value) else values

    def scalar(self, node: ScalarNode, scope: Scope | None) -> object:
        text = node.value
        if len(text) > MAX_SCALAR:
            self.stop(node, f"a text is longer than {MAX_SCALAR} characters")
        match node.tag.removeprefix(CORE):
            case "null":
                return None
            case "bool" if text.lower() in _BOOLS:
                return _BOOLS[text.lower()]
            case "str" if scope is None:
                return text
            case "str" if text.startswith("eval("):
                return self.evaluated(node, text, scope)
            case "str" if text.startswith(_QUOTES) != text.endswith(_QUOTES):
                self.problem(node, f"{show(text)} has a quote at one end only: no name of a layer or parameter has any")
                return INVALID
            case "str":
                return text
        try:
            return parse_number(text)
        except ExpressionError as error:
            self.problem(node, str(error))
            return INVALID

    def evaluated(self, node: Node, text: str, scope: Scope) -> object:
        expression = text[5:-1].strip()
        try:
            if not text.endswith(")"):
                raise ExpressionError("the last parenthesis is missing")
            if scope.owner(expression):  # a variable alone may be text or a list
                value = self.variable(scope, expression)
                self.count_values(node, value)
                return value
            return evaluate(expression, lambda name: self.variable(scope, name))
        except ExpressionError as error:
            self.problem(node, f"{show(text)}: {error}")
        except AlreadyReported:
            pass
        return INVALID

    def count_values(self, node: Node, value: object) -> None:
        self.depth += 1
        self.count(node)
        for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
            self.count_values(node, item)
        self.depth -= 1
