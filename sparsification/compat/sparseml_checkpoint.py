"""Converts a directory that SparseML saved into a plain checkpoint.

SparseML saves a model as it is in memory: quantized Linear layers have the names of their wrappers, ranges are keys of
the weights file, and dropped layers are missing while the configuration still counts them. Here the weights get their
plain names, the layers are renumbered, and the ranges are written for ``load_quantization``.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from sparsification.atomic_io import atomic_replace
from sparsification.compat.sparseml_files import SparseMLFormatError, read_config, read_recipe, read_weights
from sparsification.compat.sparseml_quantization import restore_quantization, split_state
from sparsification.model_io import named_class
from sparsification.quantization.checkpoint import (
    QUANTIZATION_FILE,
    QuantizationError,
    load_quantization,
    save_quantization,
)
from sparsification.quantization.modules import quantizers
from sparsification.recipe.model import RECIPE_FILE, Recipe
from sparsification.targets import match_names

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
)


def convert_checkpoint(source: str | Path, target: str | Path) -> list[str]:
    """Convert a directory that SparseML saved into a plain checkpoint with its recipe and ranges.

    Args:
        source: with config.json, pytorch_model.bin or model.safetensors, recipe.yaml if there was a recipe, and
            quantization.safetensors if this package saved a quantized model.
        target: must not exist, or be empty. After an error nothing is left there.

    Returns:
        A report, one line each.

    Raises:
        SparseMLFormatError: ``source`` is not such a directory, or cannot be converted exactly.
    """
    source, target = Path(source), Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SparseMLFormatError(f"{target} must not exist, or be an empty folder")
    config = read_config(source)
    state, ranges = split_state(read_weights(source))
    recipe, report = read_recipe(source)
    numbers = _layers_with_gaps(state, config.num_hidden_layers)
    _check_dropped(numbers, config.num_hidden_layers, recipe)
    for path, kept in numbers.items():
        state = {_renumbered(name, path, kept): tensor for name, tensor in state.items()}
        ranges = {_renumbered(name, path, kept): value for name, value in ranges.items()}
        old, new = (", ".join(map(str, numbered)) for numbered in (kept, range(len(kept))))
        report.append(f"{path}: layers {old} of {config.num_hidden_layers} are renumbered {new}")
    if numbers:
        config.num_hidden_layers = len(next(iter(numbers.values())))
    model = _build_model(config, state)
    report.append(f"{len(state)} tensors, {config.num_hidden_layers} layers: {type(model).__name__}")
    if ranges:
        restore_quantization(model, ranges)
        report.append(f"int8: {len(ranges)} ranges")
    if (source / QUANTIZATION_FILE).is_file():
        if ranges:
            raise SparseMLFormatError(f"{source} has ranges both in its weights and in {QUANTIZATION_FILE}")
        try:
            load_quantization(model, source)
        except QuantizationError as error:
            raise SparseMLFormatError(str(error)) from error
        report.append(f"int8: {len(quantizers(model))} ranges of {QUANTIZATION_FILE}")
    _write(model, recipe, source, target)
    return report


def _write(model: PreTrainedModel, recipe: Recipe | str | None, source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        complete = Path(folder, "complete")
        model.save_pretrained(complete)
        save_quantization(model, complete)
        if recipe is not None:
            text = recipe.to_yaml() if isinstance(recipe, Recipe) else recipe
            (complete / RECIPE_FILE).write_text(text, encoding="utf-8")
        for name in _TOKENIZER_FILES:
            if (source / name).is_file():
                shutil.copy(source / name, complete)
        atomic_replace(complete, target)


# Layers


def _layers_with_gaps(state: Mapping[str, Tensor], num_layers: int) -> dict[str, list[int]]:
    """Find the lists of layers of which some are missing: path, and the numbers that are present."""
    present: dict[str, set[int]] = {}
    for name in state:
        match = re.match(r"(.+?)\.(\d+)\.", name)
        if match:
            present.setdefault(match[1], set()).add(int(match[2]))
    return {
        path: sorted(numbers)
        for path, numbers in present.items()
        if len(numbers) < num_layers and max(numbers) < num_layers
    }


def _check_dropped(numbers: Mapping[str, list[int]], num_layers: int, recipe: Recipe | str | None) -> None:
    """Raise SparseMLFormatError for missing layers that the recipe, if it is valid, does not drop."""
    if not isinstance(recipe, Recipe):
        return
    patterns = [pattern for modifier in recipe.modifiers for pattern in modifier.layer_patterns]
    for path, kept in numbers.items():
        missing = [f"{path}.{number}" for number in range(num_layers) if number not in kept]
        dropped = {name for pattern in patterns for name in match_names(pattern, missing)}
        lost = [name for name in missing if name not in dropped]
        if lost:
            raise SparseMLFormatError(
                f"the weights of {', '.join(lost)} are missing, and {RECIPE_FILE} does not drop them"
            )


def _renumbered(name: str, path: str, kept: list[int]) -> str:
    match = re.match(rf"{re.escape(path)}\.(\d+)\.(.*)", name)
    return f"{path}.{kept.index(int(match[1]))}.{match[2]}" if match and int(match[1]) in kept else name


# The model


def _build_model(config: PreTrainedConfig, state: Mapping[str, Tensor]) -> PreTrainedModel:
    """Build the model of a configuration with exactly these weights."""
    kind = named_class(config)
    if kind is None:
        (name, *_) = config.architectures or ["none"]
        raise SparseMLFormatError(f"config.json names the architecture {name}, which is no {config.model_type} model")
    try:
        with torch.device("meta"):  # shapes alone: a file may claim sizes that do not fit into memory
            expected = {name: tensor.shape for name, tensor in kind(config).state_dict().items()}
    except (KeyError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise SparseMLFormatError(f"config.json is not valid for {kind.__name__}: {error}") from error
    # Older versions of Transformers saved this buffer.
    given = {name: tensor for name, tensor in state.items() if not name.endswith("embeddings.position_ids")}
    problems = [
        *(f"{name} is missing" for name in expected if name not in given),
        *(f"{kind.__name__} has no {name}" for name in given if name not in expected),
        *(
            f"{name} must have shape {tuple(shape)}, got {tuple(given[name].shape)}"
            for name, shape in expected.items()
            if name in given and given[name].shape != shape
        ),
    ]
    if problems:
        more = f", and {len(problems) - 1} more problems" if len(problems) > 1 else ""
        raise SparseMLFormatError(f"the weights do not fit config.json: {problems[0]}{more}")
    model = kind(config)
    # Called through the class, because Transformers' wrapper of Module.to is typed as a function, not as a method.
    kind.to(model, next(tensor.dtype for tensor in given.values() if tensor.is_floating_point()))
    model.load_state_dict(given)
    return model.eval()
