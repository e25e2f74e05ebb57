"""What is in a directory that SparseML saved, as a plain checkpoint?

SparseML saves a model as it stood in memory: a quantized Linear layer is one inside a wrapper, each range is a handful
of keys of the weights file, and a dropped layer is one whose keys are missing while the configuration still counts it.
No plain loader understands that. Here the weights get their names back, the layers are numbered anew, and the ranges go
into the file from which ``load_quantization`` makes the quantized model again.

Which integers a tensor is rounded to is not written down. It is found by trying: the grid is the one whose scale and
zero point, placed over the saved range, are the saved ones. Where none is, the directory is refused.
"""

from __future__ import annotations

import pickle
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

from sparsification.atomic_io import atomic_replace
from sparsification.errors import SparsificationError
from sparsification.model_io import named_class
from sparsification.quantization.fake_quantize import QuantizationArgs, calculate_qparams
from sparsification.quantization.modules import (
    QUANTIZATION_FILE,
    QuantizationError,
    Scheme,
    enable_fake_quant,
    insert_fake_quantizers,
    load_quantization,
    quantizers,
    save_quantization,
)
from sparsification.recipe.loader import Recipe, RecipeError, load_recipe
from sparsification.targets import match_names

RECIPE_FILE = "recipe.yaml"
_MOST_LAYERS = 1000
# What belongs to a tokenizer is copied.
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
# Attention's matrix products: SparseML's name of a quantizer, and ours.
_MATMULS = {
    "attention_scores_matmul.input_quant_stubs.0": "matmul_quantizers.query",
    "attention_scores_matmul.input_quant_stubs.1": "matmul_quantizers.key",
    "attention_scores_matmul.output_quant_stubs.0": "matmul_quantizers.scores",
    "context_layer_matmul.input_quant_stubs.0": "matmul_quantizers.probabilities",
    "context_layer_matmul.input_quant_stubs.1": "matmul_quantizers.value",
    "context_layer_matmul.output_quant_stubs.0": "matmul_quantizers.context",
}
# The member of a Scheme that a quantizer of ours belongs to.
_MEMBERS = {
    "input_quantizer": "inputs",
    "weight_quantizer": "weights",
    "output_quantizer": "outputs",
    "query": "inputs",
    "probabilities": "inputs",
    "key": "weights",
    "value": "weights",
    "scores": "outputs",
    "context": "outputs",
}


class SparseMLFormatError(SparsificationError, ValueError):
    """A directory is not one that SparseML saved, or cannot be converted exactly."""


@dataclass(frozen=True)
class SavedRange:
    """What one fake quantizer of SparseML's knows."""

    low: Tensor
    high: Tensor
    scale: Tensor
    zero_point: Tensor


def convert_checkpoint(source: str | Path, target: str | Path) -> list[str]:
    """Turn a directory that SparseML saved into a plain checkpoint with its recipe and ranges.

    Args:
        source: with config.json, pytorch_model.bin or model.safetensors, recipe.yaml where there was a recipe, and
            quantization.safetensors where this project saved a quantized model.
        target: must not exist, or be empty; nothing is left there if something goes wrong.

    Returns:
        Lines that say what was done.

    Raises:
        SparseMLFormatError: ``source`` is no such directory, or cannot be converted exactly.
    """
    source, target = Path(source), Path(target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SparseMLFormatError(f"{target} is there already, and not empty")
    config = _read_config(source)
    state, ranges = _split(_read_weights(source))
    recipe, said = _read_recipe(source / RECIPE_FILE)
    numbers = _new_numbers(state, config.num_hidden_layers)
    _check_dropped(numbers, config.num_hidden_layers, recipe)
    for path, kept in numbers.items():
        state = {_renumbered(name, path, kept): tensor for name, tensor in state.items()}
        ranges = {_renumbered(name, path, kept): value for name, value in ranges.items()}
        old, new = (", ".join(map(str, numbered)) for numbered in (kept, range(len(kept))))
        said.append(f"{path}: layers {old} of {config.num_hidden_layers} are there, and are {new} now")
    if numbers:
        config.num_hidden_layers = len(next(iter(numbers.values())))
    model = _model(config, state)
    said.append(f"{len(state)} tensors, {config.num_hidden_layers} layers: {type(model).__name__}")
    if ranges:
        _quantize(model, ranges)
        said.append(f"int8: {len(ranges)} ranges")
    if (source / QUANTIZATION_FILE).is_file():
        if ranges:
            raise SparseMLFormatError(f"{source} has ranges in its weights and in {QUANTIZATION_FILE}: which are they?")
        try:
            load_quantization(model, source)
        except QuantizationError as error:
            raise SparseMLFormatError(str(error)) from error
        said.append(f"int8: the {len(quantizers(model))} ranges of {QUANTIZATION_FILE}")
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
    return said


# What is there


def _read_config(source: Path) -> PreTrainedConfig:
    if not (source / "config.json").is_file():
        raise SparseMLFormatError(f"{source} is no saved model: it has no config.json")
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=True)
        layers = config.num_hidden_layers
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SparseMLFormatError(f"{source / 'config.json'}: {error}") from error
    if type(layers) is not int or not 0 < layers <= _MOST_LAYERS:
        raise SparseMLFormatError(f"{source / 'config.json'}: num_hidden_layers is {layers!r}")
    return config


def _read_weights(source: Path) -> dict[str, Tensor]:
    """All tensors of the weights files, whole ones or shards."""
    files = sorted(source.glob("model*.safetensors")) or sorted(source.glob("pytorch_model*.bin"))
    if not files:
        raise SparseMLFormatError(f"{source} has neither model.safetensors nor pytorch_model.bin")
    state = {}
    for file in files:
        try:
            part = (
                load_file(file)
                if file.suffix == ".safetensors"
                else torch.load(file, map_location="cpu", weights_only=True)  # runs no code
            )
        except (SafetensorError, pickle.UnpicklingError, RuntimeError, ValueError, EOFError, KeyError) as error:
            reason = str(error).partition("\n")[0]
            raise SparseMLFormatError(f"{file} does not hold weights, or more than weights: {reason}") from error
        if not isinstance(part, Mapping) or not all(isinstance(value, Tensor) for value in part.values()):
            raise SparseMLFormatError(f"{file} does not hold tensors by name")
        state |= part
    return state


def _read_recipe(path: Path) -> tuple[Recipe | str | None, list[str]]:
    """The recipe, or its text where this project refuses it; and what to say about it."""
    if not path.is_file():
        return None, [f"there is no {RECIPE_FILE}"]
    try:
        return load_recipe(path), []
    except RecipeError as error:
        return path.read_text(encoding="utf-8", errors="replace"), [
            f"{RECIPE_FILE} is copied as it is: it would be refused here",
            *error.problems,
        ]


# Names


def _split(saved: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, SavedRange]]:
    """The weights under their plain names, and the ranges under the names of our quantizers."""
    state, parts = {}, {}
    for name, tensor in saved.items():
        # The outermost quantizer of the name; its own observer is called the same as it is.
        match = re.match(r"(.*?\.(?:weight_fake_quant|activation_post_process))\.(.*)", name)
        if match:
            parts.setdefault(match[1], {})[match[2]] = tensor
        else:
            state[name.replace(".module.", ".")] = tensor
    return state, {our_name(name): _range(name, found) for name, found in parts.items()}


def our_name(name: str) -> str:
    """SparseML's name of a fake quantizer, turned into ours."""
    for theirs, ours in _MATMULS.items():
        if theirs in name:
            return name.replace(f"{theirs}.activation_post_process", ours)
    if name.endswith(".quant.activation_post_process"):
        return name.replace(".quant.activation_post_process", ".input_quantizer")
    name = name.replace(".module.", ".")
    return name.replace("weight_fake_quant", "weight_quantizer").replace("activation_post_process", "output_quantizer")


def _range(name: str, parts: Mapping[str, Tensor]) -> SavedRange:
    observer = "activation_post_process."
    keys = (f"{observer}min_val", f"{observer}max_val", "scale", "zero_point", "fake_quant_enabled")
    missing = [key for key in keys if key not in parts]
    if missing:
        raise SparseMLFormatError(f"the quantizer {name} has no {missing[0]}: it is none of torch's fake quantizers")
    low, high, scale, zero_point, enabled = (parts[key] for key in keys)
    if not enabled.any() or not low.isfinite().all() or not high.isfinite().all():
        raise SparseMLFormatError(
            f"the quantizer {name} has seen no numbers yet: the model was saved before its int8 part"
        )
    return SavedRange(low, high, scale, zero_point)


# Layers


def _new_numbers(state: Mapping[str, Tensor], num_layers: int) -> dict[str, list[int]]:
    """The lists of layers with gaps: path and the numbers that are there."""
    there: dict[str, set[int]] = {}
    for name in state:
        match = re.match(r"(.+?)\.(\d+)\.", name)
        if match:
            there.setdefault(match[1], set()).add(int(match[2]))
    return {
        path: sorted(numbers)
        for path, numbers in there.items()
        if len(numbers) < num_layers and max(numbers) < num_layers
    }


def _check_dropped(numbers: Mapping[str, list[int]], num_layers: int, recipe: Recipe | str | None) -> None:
    """Raise SparseMLFormatError for layers that are missing though a recipe that can be read did not drop them."""
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


def _model(config: PreTrainedConfig, state: Mapping[str, Tensor]) -> PreTrainedModel:
    """The model of a configuration, with these weights and no others."""
    kind = named_class(config)
    if kind is None:
        (name, *_) = config.architectures or ["none"]
        raise SparseMLFormatError(f"config.json names the architecture {name}, which is no {config.model_type} model")
    try:
        with torch.device("meta"):  # the shapes alone, before anything of a size that a file may claim is allocated
            expected = {name: tensor.shape for name, tensor in kind(config).state_dict().items()}
    except (KeyError, ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise SparseMLFormatError(f"config.json is not that of a {kind.__name__}: {error}") from error
    # A buffer that older Transformers saved.
    given = {name: tensor for name, tensor in state.items() if not name.endswith("embeddings.position_ids")}
    problems = [
        *(f"{name} is missing" for name in expected if name not in given),
        *(f"{name} is none of {kind.__name__}'s" for name in given if name not in expected),
        *(
            f"{name} is {tuple(given[name].shape)} instead of {tuple(shape)}"
            for name, shape in expected.items()
            if name in given and given[name].shape != shape
        ),
    ]
    if problems:
        more = f", and {len(problems) - 1} problems more" if len(problems) > 1 else ""
        raise SparseMLFormatError(f"the weights do not fit config.json: {problems[0]}{more}")
    model = kind(config).to(next(tensor.dtype for tensor in given.values() if tensor.is_floating_point()))
    model.load_state_dict(given)
    return model.eval()


# The ranges


def _quantize(model: PreTrainedModel, ranges: Mapping[str, SavedRange]) -> None:
    """Make the model the quantized one that it was in SparseML."""
    members: dict[str, dict[str, QuantizationArgs]] = {}
    for name, saved in ranges.items():
        module, _, quantizer = name.rpartition(".")
        scheme, member = members.setdefault(module.removesuffix(".matmul_quantizers"), {}), _MEMBERS[quantizer]
        qargs = find_qargs(name, saved)
        if scheme.setdefault(member, qargs) != qargs:
            raise SparseMLFormatError(
                f"{name}: both matrix products of an attention module must have the same integers"
            )
    try:
        insert_fake_quantizers(model, {name: Scheme(**scheme) for name, scheme in members.items()})
    except (AttributeError, StopIteration) as error:
        raise SparseMLFormatError(f"what is quantized is no part of {type(model).__name__}: {error}") from error
    ours = quantizers(model)
    for name in ours.keys() ^ ranges.keys():
        raise SparseMLFormatError(f"the quantizer {name} is {'not saved' if name in ours else 'not known here'}")
    for name, quantizer in ours.items():
        quantizer.set_range(*(end.reshape(quantizer.min_val.shape) for end in (ranges[name].low, ranges[name].high)))
    enable_fake_quant(model, True)


def find_qargs(name: str, saved: SavedRange) -> QuantizationArgs:
    """The integers that a tensor was rounded to: those whose scale over the range is the saved one."""
    low, high = saved.low.float().flatten(), saved.high.float().flatten()
    for bits in range(8, 1, -1):
        for symmetric in (True, False):
            qargs = QuantizationArgs(bits, symmetric, per_channel=low.numel() > 1)
            scale, zero_point = calculate_qparams(low, high, qargs)
            # Here symmetric integers are signed and the others are not; SparseML has both of both.
            half = 2 ** (bits - 1)
            shift = saved.zero_point.flatten() - zero_point
            same_zero = shift.eq(0) | shift.eq(half if symmetric else -half)
            if torch.allclose(scale, saved.scale.flatten(), rtol=1e-5, atol=0) and same_zero.all():
                return qargs
    raise SparseMLFormatError(f"the scale and zero point of {name} are those of no integers over its range")
