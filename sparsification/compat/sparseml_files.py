"""Reads the files of a directory that SparseML saved: configuration, weights and recipe."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig

from sparsification.errors import SparsificationError
from sparsification.recipe.document import RecipeError
from sparsification.recipe.loader import load_recipe
from sparsification.recipe.model import RECIPE_FILE, Recipe

MAX_LAYERS = 1000


class SparseMLFormatError(SparsificationError, ValueError):
    """A directory was not saved by SparseML, or cannot be converted exactly."""


def read_config(source: Path) -> PreTrainedConfig:
    """Read config.json.

    Raises:
        SparseMLFormatError: there is none, or its number of layers is not in [1, MAX_LAYERS].
    """
    path = source / "config.json"
    if not path.is_file():
        raise SparseMLFormatError(f"{source} is not a saved model: it has no config.json")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=True)
        layers = config.num_hidden_layers
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SparseMLFormatError(f"{path}: {error}") from error
    if type(layers) is not int or not 0 < layers <= MAX_LAYERS:
        raise SparseMLFormatError(f"{path}: num_hidden_layers must be 1 to {MAX_LAYERS}, got {layers!r}")
    return config


def read_weights(source: Path) -> dict[str, Tensor]:
    """Read all tensors of the weight files, sharded or not, by name.

    Raises:
        SparseMLFormatError: there is no weight file, or one contains anything but tensors.
    """
    files = sorted(source.glob("model*.safetensors")) or sorted(source.glob("pytorch_model*.bin"))
    if not files:
        raise SparseMLFormatError(f"{source} has neither model.safetensors nor pytorch_model.bin")
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            part = (
                load_file(file)
                if file.suffix == ".safetensors"
                else torch.load(file, map_location="cpu", weights_only=True)  # runs no code
            )
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise SparseMLFormatError(f"{file} must contain weights and nothing else: {reason}") from error
        if not isinstance(part, Mapping) or not all(isinstance(value, Tensor) for value in part.values()):
            raise SparseMLFormatError(f"{file} must contain tensors by name")
        state |= part
    return state


def read_recipe(source: Path) -> tuple[Recipe | str | None, list[str]]:
    """Read the recipe.

    Returns:
        The recipe, its text if it is not valid here, or None if there is none; and notes for the user.
    """
    path = source / RECIPE_FILE
    if not path.is_file():
        return None, [f"there is no {RECIPE_FILE}"]
    try:
        return load_recipe(path), []
    except RecipeError as error:
        return path.read_text(encoding="utf-8", errors="replace"), [
            f"{RECIPE_FILE} is copied unchanged, because it is not valid here:",
            *error.problems,
        ]
