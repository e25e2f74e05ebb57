"""Overrides of a recipe's variables: ``name=value,name=value``, a JSON object or a dict, read into YAML nodes."""

import json
import re
from collections.abc import Mapping

from yaml import MappingNode, Node

from sparsification.recipe.document import RecipeError, compose, plain_scalar
from sparsification.recipe.problems import ARGUMENTS
from sparsification.recipe.resolver import Resolver
from sparsification.recipe.types import show


def read_overrides(recipe_args: str | Mapping[str, object] | None, resolver: Resolver) -> dict[str, Node]:
    """Read overrides.

    Args:
        recipe_args: as the user passes them.
        resolver: of the recipe; takes what is wrong with single overrides.

    Returns:
        The node of each override, by the name of the variable.

    Raises:
        RecipeError: they are no JSON object, though they begin like one.
    """
    if isinstance(recipe_args, Mapping):
        try:
            recipe_args = json.dumps(dict(recipe_args), ensure_ascii=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise RecipeError(f"{ARGUMENTS}: {error}") from error
    text = (recipe_args or "").strip()
    if text.startswith("{"):  # read as YAML, which contains JSON, for its bounds and its numbers
        root = compose(ARGUMENTS, text)
        if not isinstance(root, MappingNode):
            raise RecipeError(f"{ARGUMENTS} must be a JSON object or name=value,name=value")
        return {name: node for name, _, node in resolver.pairs(root)}
    overrides: dict[str, Node] = {}
    for piece in text.split(",") if text else []:
        name, separator, value = (part.strip() for part in [*re.split("([=:])", piece, maxsplit=1), "", ""][:3])
        node = plain_scalar(ARGUMENTS, value)
        if not (name and separator):
            resolver.problems.add(node, f"{show(piece)} is not name=value; write lists as JSON: '{{\"name\": [1, 4]}}'")
        elif resolver.is_new(name, node, overrides):
            overrides[name] = node
    return overrides
