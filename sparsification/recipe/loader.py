"""Reads recipes: YAML, or Markdown with YAML front matter, into modifiers.

A recipe contains variables, lists of modifiers under keys that contain "modifiers", and arithmetic in ``eval(...)``.
Stages group such lists and variables of their own.

Recipes are untrusted and written by hand. Within bounds, a YAML tree becomes numbers, strings, lists, mappings and the
modifiers of one table, and nothing else. All problems are collected with their lines and raised in one error. Overrides
replace nodes of the tree before values are made of them. An alias is the same node as its anchor, so that an override
reaches every use of a variable.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeGuard

from yaml import MappingNode, Node, ScalarNode, SequenceNode

from sparsification.base import Modifier
from sparsification.modifiers import MODIFIERS
from sparsification.recipe.builder import BuiltModifier, build_modifier
from sparsification.recipe.conflicts import learning_rate_conflicts
from sparsification.recipe.document import CORE, RecipeError, compose, did_you_mean, read_text
from sparsification.recipe.model import Recipe
from sparsification.recipe.overrides import read_overrides
from sparsification.recipe.problems import Problems
from sparsification.recipe.resolver import INVALID, AlreadyReported, Resolver, Scope, hint
from sparsification.recipe.types import show


def load_recipe(
    source: str | Path,
    recipe_args: str | Mapping[str, object] | None = None,
    *,
    modifiers: Mapping[str, type[Modifier]] | None = None,
) -> Recipe:
    """Read a recipe.

    Args:
        source: a .yaml, .yml or .md file, or the text of a recipe, which contains a line break.
        recipe_args: variables to override: a JSON object, ``name=value,name=value`` or a dict.
        modifiers: the dataclass of each ``!Name``; default: ``MODIFIERS``.

    Returns:
        The recipe with every variable, override and ``eval`` resolved.

    Raises:
        RecipeError: all problems, each with file, line and the probable intention.
    """
    name, text = read_text(source)
    reader = _Reader(name, MODIFIERS if modifiers is None else modifiers, recipe_args)
    root = compose(name, text)
    if root is None:
        raise RecipeError(f"{name}: the recipe is empty")
    return reader.read(root)


class _Reader:
    """Reads one recipe: sorts its keys into metadata, variables and lists of modifiers, then builds these."""

    def __init__(self, name: str, table: Mapping[str, type[Modifier]], recipe_args: str | Mapping | None) -> None:
        self.table = table
        self.problems = Problems(name)
        self.resolver = Resolver(self.problems)
        self.scopes = [Scope()]  # of the recipe, then of its stages
        self.stages: list[str] = []
        self.metadata: list[tuple[str | None, str, Node]] = []  # stage, key, value
        self.lists: list[tuple[Node, Scope]] = []  # of modifiers
        self.overrides = read_overrides(recipe_args, self.resolver)

    def read(self, root: Node) -> Recipe:
        self._sort_keys(root)
        self._check_overrides()
        for scope in self.scopes:
            for name in scope.nodes:
                with contextlib.suppress(AlreadyReported):
                    self.resolver.resolve(scope, name)
        metadata = self._read_metadata()
        built = [found for node, scope in self.lists for found in self._read_modifiers(node, scope)]
        if not self.lists:
            self.problems.add(root, "a recipe needs a list 'modifiers:' with entries such as '  - !EpochRangeModifier'")
        self._check_learning_rates(built)
        self.problems.raise_if_any()
        return Recipe(
            modifiers=[found.modifier for found in built],
            variables=self.scopes[0].values,
            metadata=metadata or None,
            source=self.problems.name,
            stages=self.stages,
            explicit_keys=[found.keys for found in built],
            lines=[found.node.start_mark.line + 1 for found in built],
            unused_variables=list(self._unused_variables()),
        )

    def _sort_keys(self, root: Node) -> None:
        if isinstance(root, ScalarNode) and not _is_tagged(root):
            self.problems.stop(root, "a recipe must be a mapping or a list of modifiers, got a string")
        if not isinstance(root, MappingNode) or _is_tagged(root):  # a list of modifiers, or one, without a key
            self.lists.append((root, self.scopes[0]))
            return
        for name, key, node in self.resolver.pairs(root):
            if _is_stage(node):
                self.stages.append(name)
                self.scopes.append(Scope(self.scopes[0]))
                for inner in self.resolver.pairs(node):
                    self._classify_key(*inner, self.scopes[-1], stage=name)
            else:
                self._classify_key(name, key, node, self.scopes[0], stage=None)

    def _classify_key(self, name: str, key: Node, node: Node, scope: Scope, stage: str | None) -> None:
        """Add a key of the recipe or of a stage to the metadata, the lists of modifiers or the variables."""
        if name in ("__metadata__", "framework_metadata"):
            self.metadata.append((stage, name, node))
        elif _is_tagged(node) or ("modifiers" in name and not isinstance(node, ScalarNode)):
            self.lists.append((node, scope))
        elif name == "version" or ("modifiers" in name and node.tag == CORE + "null"):
            pass  # the version of SparseML's format; a list whose lines are all commented out
        else:
            if name in self.overrides:
                # A node before its key belongs to an anchor elsewhere, and this is an alias of it. The override of this
                # variable must not reach the other uses of the anchor.
                if node.start_mark.index > key.start_mark.index:
                    self.resolver.replaced[id(node)] = self.overrides[name]
                node = self.overrides[name]
            scope.nodes[name] = node

    def _check_overrides(self) -> None:
        known = [name for scope in self.scopes for name in scope.nodes]
        for name, node in self.overrides.items():
            if name not in known:
                self.problems.add(node, f"the recipe has no variable {show(name)}{hint(name, known)}")

    def _read_metadata(self) -> dict[str, object]:
        metadata: dict[str, object] = {}
        for stage, name, node in self.metadata:
            value = self.resolver.value(node, None)
            if value in (None, "None", INVALID):  # SparseML writes "None" if there is no metadata
                continue
            if not isinstance(value, dict):
                self.problems.add(node, f"{name} must be a mapping, got {show(value)}")
                continue
            holder = metadata.setdefault(stage, {}) if stage else metadata
            if not isinstance(holder, dict):
                self.problems.add(node, f"{stage} in __metadata__ must be a mapping, got {show(holder)}")
                continue
            holder.update({name: value} if name == "framework_metadata" else value)
        return metadata

    def _read_modifiers(self, node: Node, scope: Scope) -> Iterator[BuiltModifier]:
        if isinstance(node, MappingNode) and not _is_tagged(node):  # llm-compressor's form: {Name: {keys}}
            for name, key, item in self.resolver.pairs(node):
                self.resolver.count(item)
                yield from self._read_modifier(name, key, item, scope)
            return
        for item in node.value if isinstance(node, SequenceNode) and not _is_tagged(node) else [node]:
            self.resolver.count(item)
            name = item.tag.removeprefix("!").removeprefix("pytorch.")
            if not _is_tagged(item):
                self.problems.add(item, "modifiers must be a list of entries '- !Name', each with its keys below it")
            else:
                yield from self._read_modifier(name, item, item, scope)

    def _read_modifier(self, name: str, where: Node, node: Node, scope: Scope) -> Iterator[BuiltModifier]:
        if name not in self.table:
            self.problems.add(where, f"unknown modifier {show(name)}{did_you_mean(name, sorted(self.table))}")
        elif built := build_modifier(self.table[name], node, scope, self.resolver):
            yield built

    def _unused_variables(self) -> Iterator[str]:
        """Yield the variables, of stages too, that no ``eval`` and no alias reads."""
        own_visits = Counter(id(node) for scope in self.scopes for node in scope.nodes.values())
        for scope in self.scopes:
            for name, node in scope.nodes.items():
                if name not in scope.read and self.resolver.visits[id(node)] == own_visits[id(node)]:
                    yield name

    def _check_learning_rates(self, built: list[BuiltModifier]) -> None:
        for i, j in learning_rate_conflicts([found.modifier for found in built]):
            one, other = built[i], built[j]
            self.problems.add(
                other.node,
                f"{type(other.modifier).__name__} (epochs {_epochs(other.modifier)}) sets the same learning rate as "
                f"the {type(one.modifier).__name__} of line {one.node.start_mark.line + 1} "
                f"(epochs {_epochs(one.modifier)})",
            )


def _epochs(modifier: Modifier) -> str:
    start, end = modifier.active_range
    return f"from {start:g} on" if end == float("inf") else f"{start:g} to {end:g}"


def _is_tagged(node: Node) -> bool:
    return node.tag.startswith("!")


def _is_stage(node: Node) -> TypeGuard[MappingNode]:
    return (
        isinstance(node, MappingNode)
        and not _is_tagged(node)
        and any(isinstance(key, ScalarNode) and "modifiers" in key.value for key, _ in node.value)
    )
