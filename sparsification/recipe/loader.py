"""Which modifiers does a recipe ask for, and what is wrong with it?

A recipe is YAML, or Markdown with YAML between two lines ``---`` at its top. It holds variables, lists of modifiers
under keys that contain "modifiers", and arithmetic in ``eval(...)``; stages, which hold such lists and variables of
their own, only group them.

Recipes are untrusted and written by hand. So numbers, strings, lists, mappings and the modifiers of one table are all
that is ever made of the YAML tree, within bounds; and every problem is collected, with its line, before one error tells
them all. Overrides replace nodes before anything is made of them, and an alias is the same node as its anchor: so one
override reaches every use of a variable.
"""

import contextlib
import dataclasses
import itertools
import json
import re
import typing
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yaml import MappingNode, Node, ScalarNode, SequenceNode

from sparsification.modifiers import MODIFIERS, Modifier
from sparsification.recipe.conflicts import learning_rate_conflicts
from sparsification.recipe.document import (
    CORE,
    RecipeError,
    Tagged,
    compose,
    did_you_mean,
    dump,
    plain_scalar,
    read_text,
)
from sparsification.recipe.resolver import ARGUMENTS, INVALID, AlreadyReported, Scope, ValueReader, hint
from sparsification.recipe.types import coerce, show

__all__ = ["RECIPE_FILE", "Recipe", "RecipeError", "load_recipe"]

RECIPE_FILE = "recipe.yaml"  # beside a model that was trained by it


@dataclass(frozen=True)
class Recipe:
    """What a recipe says, with every variable, override and ``eval`` resolved."""

    modifiers: list[Modifier]  # in the order of the file
    variables: dict[str, object]  # those at the top level
    metadata: dict | None
    source: str  # file name, or "<recipe>"
    stages: list[str]
    explicit_keys: list[list[str]] = field(default_factory=list, repr=False)  # of each modifier: as written
    lines: list[int] = field(default_factory=list, repr=False, compare=False)  # for each modifier, where it stands
    unused_variables: list[str] = field(default_factory=list, repr=False, compare=False)  # nothing reads them

    def to_yaml(self) -> str:
        """Write the recipe as it was resolved; what is loaded from this text has equal modifiers.

        Stages are not shifted in time, so all modifiers are one list. What was not given and has its default is left
        out. Variables are told in the metadata: nothing here would read them.
        """
        metadata = (self.metadata or {}) | ({"variables": self.variables} if self.variables else {})
        document: dict[str, object] = {"__metadata__": metadata} if metadata else {}
        tagged = [
            Tagged(type(modifier).__name__, _values(modifier, given))
            for modifier, given in itertools.zip_longest(self.modifiers, self.explicit_keys, fillvalue=())
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


def load_recipe(
    source: str | Path,
    recipe_args: str | Mapping[str, object] | None = None,
    *,
    modifiers: Mapping[str, type[Modifier]] | None = None,
) -> Recipe:
    """Read a recipe.

    Args:
        source: a .yaml, .yml or .md file, or the text itself, which contains a line break.
        recipe_args: variables to override: a JSON object, ``name=value,name=value`` or a dict.
        modifiers: the dataclass behind each ``!Name``; ``MODIFIERS`` unless given.

    Returns:
        The recipe with every variable, override and ``eval`` resolved.

    Raises:
        RecipeError: every problem, with file, line and what was probably meant.
    """
    name, text = read_text(source)
    reader = _Reader(name, MODIFIERS if modifiers is None else modifiers, recipe_args)
    root = compose(name, text)
    if root is None:
        raise RecipeError(f"{name}: the recipe is empty")
    return reader.read(root)


class _Reader(ValueReader):
    """One reading of one recipe."""

    def __init__(self, name: str, table: Mapping[str, type[Modifier]], recipe_args: str | Mapping | None) -> None:
        super().__init__(name)
        self.table = table
        self.scopes = [Scope()]  # of the recipe, then of its stages
        self.stages: list[str] = []
        self.metadata: list[tuple[str | None, str, Node]] = []  # stage, key, value
        self.lists: list[tuple[Node, Scope]] = []  # of modifiers
        self.built: list[tuple[Modifier, Node, list[str]]] = []  # with where it stands and the keys given
        self.overrides = self.read_arguments(recipe_args)

    def read(self, root: Node) -> Recipe:
        if isinstance(root, ScalarNode) and not _is_tagged(root):
            self.stop(root, "this is a text, not the keys of a recipe")
        if not isinstance(root, MappingNode) or _is_tagged(root):  # a list of modifiers, or one, without a key
            self.lists.append((root, self.scopes[0]))
        else:
            for name, key, node in self.pairs(root):
                if _is_stage(node):
                    self.stages.append(name)
                    self.scopes.append(Scope(self.scopes[0]))
                    for inner in self.pairs(node):
                        self.classify_key(*inner, self.scopes[-1], stage=name)
                else:
                    self.classify_key(name, key, node, self.scopes[0], stage=None)
        known = [name for scope in self.scopes for name in scope.nodes]
        for name, node in self.overrides.items():
            if name not in known:
                self.problem(node, f"the recipe has no variable {show(name)}{hint(name, known)}")
        for scope in self.scopes:
            for name in scope.nodes:
                with contextlib.suppress(AlreadyReported):
                    self.resolve(scope, name)
        metadata = self.read_metadata()
        for node, scope in self.lists:
            self.read_modifiers(node, scope)
        if not self.lists:
            self.problem(root, "there is no list of modifiers, such as 'modifiers:' with '  - !EpochRangeModifier'")
        self.check_learning_rates()
        if self.problems:
            raise RecipeError(*self.sorted_errors())
        return Recipe(
            modifiers=[modifier for modifier, _, _ in self.built],
            variables=self.scopes[0].values,
            metadata=metadata or None,
            source=self.name,
            stages=self.stages,
            explicit_keys=[given for _, _, given in self.built],
            lines=[node.start_mark.line + 1 for _, node, _ in self.built],
            unused_variables=list(self.unused_variables()),
        )

    def read_arguments(self, recipe_args: str | Mapping | None) -> dict[str, Node]:
        """Overrides by name, as nodes."""
        if isinstance(recipe_args, Mapping):
            try:
                recipe_args = json.dumps(dict(recipe_args), ensure_ascii=False)
            except (TypeError, ValueError, RecursionError) as error:
                raise RecipeError(f"{ARGUMENTS}: {error}") from error
        text = (recipe_args or "").strip()
        if text.startswith("{"):  # JSON is YAML, but for the bounds and the numbers that we have already
            root = compose(ARGUMENTS, text)
            if not isinstance(root, MappingNode):
                raise RecipeError(f"{ARGUMENTS}: this is no JSON object")
            return {name: node for name, _, node in self.pairs(root)}
        overrides: dict[str, Node] = {}
        for piece in text.split(",") if text else []:
            name, separator, value = (
                part.strip() for part in re.match(r"([^=:]*)([=:]?)(.*)", piece, re.DOTALL).groups()
            )
            node = plain_scalar(ARGUMENTS, value)
            if not (name and separator):
                self.problem(node, f"{show(piece)} is not name=value; write lists as JSON: '{{\"name\": [1, 4]}}'")
            elif self.is_new(name, node, overrides):
                overrides[name] = node
        return overrides

    def classify_key(self, name: str, key: Node, node: Node, scope: Scope, stage: str | None) -> None:
        """Put a key of the recipe or of a stage where it belongs: metadata, modifiers or variables."""
        if name in ("__metadata__", "framework_metadata"):
            self.metadata.append((stage, name, node))
        elif _is_tagged(node) or ("modifiers" in name and not isinstance(node, ScalarNode)):
            self.lists.append((node, scope))
        elif name == "version" or ("modifiers" in name and node.tag == CORE + "null"):
            pass  # the version of SparseML's format; a list whose lines are all commented out
        else:
            if name in self.overrides:
                # An alias that is only repeated here stands before its key. It has uses of its own: leave those alone.
                if node.start_mark.index > key.start_mark.index:
                    self.replaced[id(node)] = self.overrides[name]
                node = self.overrides[name]
            scope.nodes[name] = node

    def read_metadata(self) -> dict[str, object]:
        metadata: dict[str, object] = {}
        for stage, name, node in self.metadata:
            value = self.value(node, None)
            if value in (None, "None", INVALID):  # SparseML writes "None" for none
                continue
            if not isinstance(value, dict):
                self.problem(node, f"{name} must be a mapping, not {show(value)}")
                continue
            holder = metadata.setdefault(stage, {}) if stage else metadata
            holder.update({name: value} if name == "framework_metadata" else value)
        return metadata

    def read_modifiers(self, node: Node, scope: Scope) -> None:
        for item in node.value if isinstance(node, SequenceNode) and not _is_tagged(node) else [node]:
            self.count(item)
            name = item.tag.removeprefix("!").removeprefix("pytorch.")
            if not _is_tagged(item):
                self.problem(item, "modifiers stand here in a list, each '- !Name' with its keys below")
            elif name in self.table:
                self.read_modifier(name, item, scope)
            else:
                self.problem(item, f"there is no modifier {show(name)}{did_you_mean(name, sorted(self.table))}")

    def read_modifier(self, name: str, node: Node, scope: Scope) -> None:
        if not isinstance(node, MappingNode) and node.value != "":
            self.problem(node, f"{name} needs its keys below it, each 'key: value'")
            return
        kind = self.table[name]
        hints = typing.get_type_hints(kind)
        keys = {key.name: key for key in dataclasses.fields(kind) if key.init}
        pairs = self.pairs(node) if isinstance(node, MappingNode) else []
        values = {}
        for key, key_node, value_node in pairs:
            value = self.value(value_node, scope)
            if key not in keys:
                near = did_you_mean(key, keys, f"; it has {', '.join(keys)}")
                self.problem(key_node, f"{name} has no key {show(key)}{near}")
            elif value is not INVALID:
                try:
                    values[key] = coerce(value, hints[key])
                except ValueError as error:
                    self.problem(key_node, f"{name}: {key} {error}")
        if any(key not in keys for key, _, _ in pairs):
            return  # what seems to be missing may be what is misspelt
        given = [key for key, _, _ in pairs]
        unset = (dataclasses.MISSING, dataclasses.MISSING)
        missing = [key for key in keys if key not in given and (keys[key].default, keys[key].default_factory) == unset]
        if missing:
            self.problem(node, f"{name} needs {' and '.join(missing)}")
        elif len(values) == len(pairs):
            try:
                self.built.append((kind(**values), node, given))
            except ValueError as error:
                self.problem(node, f"{name}: {error}")

    def unused_variables(self) -> Iterator[str]:
        """Variables, of stages too, that no ``eval`` and no alias reads."""
        own_visits = Counter(id(node) for scope in self.scopes for node in scope.nodes.values())
        for scope in self.scopes:
            for name, node in scope.nodes.items():
                if name not in scope.read and self.visits[id(node)] == own_visits[id(node)]:
                    yield name

    def check_learning_rates(self) -> None:
        for i, j in learning_rate_conflicts([modifier for modifier, _, _ in self.built]):
            (one, one_node, _), (other, other_node, _) = self.built[i], self.built[j]
            self.problem(
                other_node,
                f"{type(other).__name__} (epochs {_epochs(other)}) sets the same learning rate as the "
                f"{type(one).__name__} of line {one_node.start_mark.line + 1} (epochs {_epochs(one)})",
            )


def _epochs(modifier: Modifier) -> str:
    start, end = modifier.active_range
    return f"from {start:g} on" if end == float("inf") else f"{start:g} to {end:g}"


def _is_tagged(node: Node) -> bool:
    return node.tag.startswith("!")


def _is_stage(node: Node) -> bool:
    return (
        isinstance(node, MappingNode)
        and not _is_tagged(node)
        and any(isinstance(key, ScalarNode) and "modifiers" in key.value for key, _ in node.value)
    )
