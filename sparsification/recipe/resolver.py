"""Values of the nodes of a recipe's YAML tree, with variables and ``eval(...)`` resolved.

A node becomes a number, string, boolean, null, list or mapping and nothing else, whatever its tag says. A value with a
problem is ``INVALID`` after the problem has been reported, so that one reading finds every problem and reports each
once.
"""

from collections import Counter
from collections.abc import Container

from yaml import MappingNode, Node, ScalarNode, SequenceNode

from sparsification.recipe.document import CORE, MAX_DEPTH, MAX_NODES, TOO_LARGE, did_you_mean
from sparsification.recipe.expressions import ExpressionError, evaluate, parse_number
from sparsification.recipe.problems import Problems
from sparsification.recipe.types import show

MAX_SCALAR = 100_000  # characters
INVALID = object()  # the value of a node whose problem has been reported

_BUSY = object()  # the value of a variable while it is resolved
_KINDS = {ScalarNode: ("null", "bool", "int", "float", "str"), SequenceNode: ("seq",), MappingNode: ("map",)}
_QUOTES = ("'", '"')
_BOOLS = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


def hint(name: str, known: list[str]) -> str:
    """Return the end of a message about an unknown variable."""
    return did_you_mean(name, known, f"; its variables are {', '.join(map(show, known[:20]))}" if known else "")


class AlreadyReported(Exception):
    """A variable has no value, and its problem has been reported."""


class Scope:
    """Variables of a recipe, or of one of its stages, whose expressions may also use those of the recipe."""

    def __init__(self, outer: "Scope | None" = None) -> None:
        self.outer = outer
        self.nodes: dict[str, Node] = {}
        self.values: dict[str, object] = {}
        self.read: set[str] = set()  # names that an eval(...) uses

    def owner(self, name: str) -> "Scope | None":
        """Return the innermost scope that defines a name, None if there is none."""
        if name in self.nodes:
            return self
        return self.outer.owner(name) if self.outer else None

    def names(self) -> list[str]:
        return [*self.nodes, *(self.outer.names() if self.outer else [])]


class _ScopeOfVariable(Scope):
    """What the expression of a stage's variable may use: its scope, but for its own name the outer variable."""

    def __init__(self, scope: Scope, name: str) -> None:
        super().__init__(scope)
        self.scope = scope
        self.name = name

    def owner(self, name: str) -> Scope | None:
        scope = self.scope.outer if name == self.name else self.scope
        return scope.owner(name) if scope else None


class Resolver:
    """Makes plain values of the nodes of one recipe, within bounds.

    Args:
        problems: takes what is wrong with the nodes.
    """

    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.replaced: dict[int, Node] = {}  # id of an overridden node: the node of its override
        self.nodes = self.depth = 0  # read so far, each alias counted; of the current node
        self.visits: Counter[int] = Counter()  # id of a node: how often its value was made, each alias counted

    def count(self, node: Node) -> None:
        """Count a node, and stop where aliases of aliases or variables of variables make a short text large."""
        self.nodes += 1
        if self.nodes > MAX_NODES or self.depth > MAX_DEPTH:
            self.problems.stop(node, TOO_LARGE)

    def pairs(self, mapping: MappingNode) -> list[tuple[str, Node, Node]]:
        """Return the keys that are names, each with the nodes of key and value."""
        found: dict[str, tuple[str, Node, Node]] = {}
        for key, value in mapping.value:
            self.count(key)
            if not isinstance(key, ScalarNode):
                self.problems.add(key, "a key must be a name, got a list or mapping")
            elif self.is_new(key.value, key, found):
                found[key.value] = (key.value, key, value)
        return list(found.values())

    def is_new(self, name: object, key: Node, found: Container[object]) -> bool:
        """Tell whether a key may be added to those found so far; if not, report the problem."""
        if key.value == "<<":
            self.problems.add(key, "merge keys (<<) are not supported; write the keys out")
        elif name in found:
            self.problems.add(key, f"duplicate key {show(name)}")
        else:
            return True
        return False

    def variable(self, scope: Scope, name: str) -> object:
        """Return the value of a variable for an ``eval``; ``ExpressionError`` or ``AlreadyReported`` if it has none."""
        owner = scope.owner(name)
        if owner is None:
            raise ExpressionError(f"unknown variable {show(name)}{hint(name, scope.names())}")
        owner.read.add(name)
        return self.resolve(owner, name)

    def resolve(self, owner: Scope, name: str) -> object:
        """Resolve a variable that this scope defines, and those that it uses; errors as in ``variable``."""
        if name not in owner.values:
            owner.values[name] = _BUSY
            hides = owner.outer is not None and owner.outer.owner(name) is not None
            owner.values[name] = self.value(owner.nodes[name], _ScopeOfVariable(owner, name) if hides else owner)
        if owner.values[name] is _BUSY:
            raise ExpressionError(f"the variable {show(name)} refers to itself")
        if owner.values[name] is INVALID:
            raise AlreadyReported
        return owner.values[name]

    def value(self, node: Node, scope: Scope | None) -> object:
        """Return the value of a node, ``INVALID`` after a problem. Without a scope, ``eval(...)`` is a string."""
        node = self.replaced.get(id(node), node)
        self.visits[id(node)] += 1
        self.depth += 1
        self.count(node)
        if node.tag not in [CORE + kind for kind in _KINDS[type(node)]]:
            tag = node.tag.replace(CORE, "!!")[:60]
            self.problems.add(
                node, f"the tag '{tag}' is not allowed here; modifiers belong in lists below '...modifiers:'"
            )
            value = INVALID
        elif isinstance(node, ScalarNode):
            value = self._scalar(node, scope)
        elif isinstance(node, SequenceNode):
            value = [self.value(item, scope) for item in node.value]
            value = INVALID if INVALID in value else value
        else:
            assert isinstance(node, MappingNode)
            value = self._mapping(node, scope)
        self.depth -= 1
        return value

    def _mapping(self, node: MappingNode, scope: Scope | None) -> object:
        values: dict[object, object] = {}
        for key_node, value_node in node.value:
            key, value = self.value(key_node, scope), self.value(value_node, scope)
            if isinstance(key, list | dict):
                self.problems.add(key_node, "a key must be a number or a string, got a list or mapping")
            elif key is not INVALID and self.is_new(key, key_node, values):
                values[key] = value
        return INVALID if INVALID in values.values() or len(values) < len(node.value) else values

    def _scalar(self, node: ScalarNode, scope: Scope | None) -> object:
        text = node.value
        if len(text) > MAX_SCALAR:
            self.problems.stop(node, f"a string must have at most {MAX_SCALAR} characters, got {len(text)}")
        match node.tag.removeprefix(CORE):
            case "null":
                return None
            case "bool" if text.lower() in _BOOLS:
                return _BOOLS[text.lower()]
            case "str" if scope is None:
                return text
            case "str" if scope is not None and text.startswith("eval("):
                return self._evaluated(node, text, scope)
            case "str" if text.startswith(_QUOTES) != text.endswith(_QUOTES):
                self.problems.add(
                    node, f"{show(text)} has a quote at one end only; names of layers and parameters have none"
                )
                return INVALID
            case "str":
                return text
        try:
            return parse_number(text)
        except ExpressionError as error:
            self.problems.add(node, str(error))
            return INVALID

    def _evaluated(self, node: Node, text: str, scope: Scope) -> object:
        expression = text[5:-1].strip()
        try:
            if not text.endswith(")"):
                raise ExpressionError("the last parenthesis is missing")
            if scope.owner(expression):  # a variable alone may also be a string or a list
                value = self.variable(scope, expression)
                self._count_values(node, value)
                return value
            return evaluate(expression, lambda name: self.variable(scope, name))
        except ExpressionError as error:
            self.problems.add(node, f"{show(text)}: {error}")
        except AlreadyReported:
            pass
        return INVALID

    def _count_values(self, node: Node, value: object) -> None:
        self.depth += 1
        self.count(node)
        for item in value if isinstance(value, list) else value.values() if isinstance(value, dict) else ():
            self._count_values(node, item)
        self.depth -= 1
