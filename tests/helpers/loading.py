"""Recipes with a modifier that has a field of every type, and the problems that loading them reports."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sparsification.modifiers import MODIFIERS, Modifier
from sparsification.recipe.loader import RecipeError, load_recipe


@dataclass(kw_only=True)
class AnyModifier(Modifier):
    """A field of every kind that an annotation can ask for."""

    number: float = 0.0
    whole: int = 0
    text: str = ""
    switch: bool = False
    either: float | str | None = None
    names: list[str] = field(default_factory=list)
    groups: float | dict[float, list[str]] = 0.0
    free: object = None


ALL = MODIFIERS | {"AnyModifier": AnyModifier}


def load(text: str, recipe_args: str | dict | None = None):
    return load_recipe(text + "\n", recipe_args, modifiers=ALL)


def field_of(yaml_value: str, key: str = "free", head: str = "", recipe_args: str | dict | None = None) -> object:
    """What a value becomes in a field of a modifier."""
    return getattr(
        load(f"{head}\nmodifiers:\n  - !AnyModifier\n    {key}: {yaml_value}", recipe_args).modifiers[0], key
    )


def problems_of(text: str | Path, recipe_args: str | dict | None = None) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(text, recipe_args, modifiers=ALL)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def problem_of(text: str | Path, recipe_args: str | dict | None = None) -> str:
    (problem,) = problems_of(text, recipe_args)
    return problem


RANGE = "modifiers:\n  - !EpochRangeModifier\n    end_epoch: 3.0\n"
