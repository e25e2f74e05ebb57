"""The content of a recipe after it has been read, and how it is written as YAML."""

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from sparsification.base import Modifier
from sparsification.recipe.document import Tagged, dump

RECIPE_FILE = "recipe.yaml"  # beside a model that was trained with it


@dataclass(frozen=True)
class Recipe:
    """A recipe with every variable, override and ``eval`` resolved."""

    modifiers: list[Modifier]  # in the order of the file
    variables: dict[str, object]  # those at the top level
    metadata: dict | None
    source: str  # file name, or "<recipe>"
    stages: list[str]
    explicit_keys: list[list[str]] = field(default_factory=list, repr=False)  # for each modifier, the keys written
    lines: list[int] = field(default_factory=list, repr=False, compare=False)  # for each modifier, from 1
    unused_variables: list[str] = field(default_factory=list, repr=False, compare=False)

    def to_yaml(self) -> str:
        """Write the resolved recipe; the modifiers loaded from this text are equal.

        All modifiers become one list, because stages do not shift times. Keys that were not written and have their
        default are left out. Variables go into the metadata, because nothing in the text refers to them.
        """
        metadata = (self.metadata or {}) | ({"variables": self.variables} if self.variables else {})
        document: dict[str, object] = {"__metadata__": metadata} if metadata else {}
        given_keys = itertools.chain(self.explicit_keys, itertools.repeat(list[str]()))
        tagged = [
            Tagged(type(modifier).__name__, _values(modifier, given))
            for modifier, given in zip(self.modifiers, given_keys, strict=False)
        ]
        return dump(document | {"modifiers": tagged})


def _values(modifier: Modifier, given: Sequence[str]) -> dict[str, object]:
    values = {}
    for key in dataclasses.fields(modifier):
        if key.init:
            value = getattr(modifier, key.name)
            default = key.default if key.default_factory is dataclasses.MISSING else key.default_factory()
            if key.name in given or value != default:
                values[key.name] = value
    return values
