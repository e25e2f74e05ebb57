"""Builds a modifier from its node in a recipe: resolves its values, fits them to the fields, reports problems."""

import dataclasses
import typing
from collections.abc import Callable

from yaml import MappingNode, Node

from sparsification.base import Modifier
from sparsification.recipe.document import did_you_mean
from sparsification.recipe.resolver import INVALID, Resolver, Scope
from sparsification.recipe.types import coerce, show


@dataclasses.dataclass(frozen=True)
class BuiltModifier:
    """A modifier, with the place in the recipe that it comes from."""

    modifier: Modifier
    node: Node
    keys: list[str]  # those that the recipe writes


def build_modifier(kind: type[Modifier], node: Node, scope: Scope, resolver: Resolver) -> BuiltModifier | None:
    """Build a modifier.

    Args:
        kind: its dataclass.
        node: the tagged node, with the keys of the modifier.
        scope: the variables that ``eval(...)`` may use.
        resolver: of the recipe; takes the problems.

    Returns:
        The modifier; None if there is a problem.
    """
    name, problems = kind.__name__, resolver.problems
    if not isinstance(node, MappingNode) and node.value != "":
        problems.add(node, f"{name} must be followed by its keys, each 'key: value'")
        return None
    hints = typing.get_type_hints(kind)
    fields = {key.name: key for key in dataclasses.fields(kind) if key.init}
    pairs = resolver.pairs(node) if isinstance(node, MappingNode) else []
    values = {}
    for key, key_node, value_node in pairs:
        value = resolver.value(value_node, scope)
        if key not in fields:
            near = did_you_mean(key, fields, f"; its keys are {', '.join(fields)}")
            problems.add(key_node, f"{name} has no key {show(key)}{near}")
        elif value is not INVALID:
            try:
                values[key] = coerce(value, hints[key])
            except ValueError as error:
                problems.add(key_node, f"{name}: {key} {error}")
    keys = [key for key, _, _ in pairs]
    if any(key not in fields for key in keys):
        return None  # a key that seems to be missing may be the one that is misspelt
    missing = [key for key, field in fields.items() if key not in keys and _is_required(field)]
    if missing:
        problems.add(node, f"{name} requires {' and '.join(missing)}")
    elif len(values) == len(pairs):
        try:
            build: Callable[..., Modifier] = kind  # ``coerce`` has checked the types of its fields
            return BuiltModifier(build(**values), node, keys)
        except ValueError as error:
            problems.add(node, f"{name}: {error}")
    return None


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
