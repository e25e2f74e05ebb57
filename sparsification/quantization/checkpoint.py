"""Quantization ranges beside a saved model: written to and restored from ``quantization.safetensors``.

Fake-quantized modules hold the Parameters of those that they replace, under the same names, and ranges are not in
``state_dict``. The checkpoint of a quantized model is therefore the plain checkpoint of its fp32 weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import torch.nn as nn
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsification.atomic_io import atomic_path
from sparsification.errors import SparsificationError
from sparsification.quantization.fake_quantize import QuantizationArgs
from sparsification.quantization.modules import (
    enable_fake_quant,
    fake_quant_enabled,
    fake_quantized_modules,
    insert_fake_quantizers,
    quantizers,
)
from sparsification.quantization.scheme import Scheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QUANTIZATION_FILE = "quantization.safetensors"


class QuantizationError(SparsificationError, ValueError):
    """A file of quantization ranges is damaged, or does not fit the model or its recipe."""


def save_quantization(model: nn.Module, directory: str | Path) -> None:
    """Write the quantization schemes and ranges of a model beside its weights.

    If fake quantization is not enabled, the file of an earlier save is removed instead.

    Args:
        model: any model.
        directory: where its weights are saved.
    """
    path = Path(directory) / QUANTIZATION_FILE
    if not fake_quant_enabled(model):
        path.unlink(missing_ok=True)
        return
    tensors: dict[str, Tensor] = {}
    frozen = True
    for name, quantizer in quantizers(model).items():
        frozen &= not quantizer.observer_enabled
        if quantizer.observed:
            tensors |= {f"{name}.low": quantizer.min_val, f"{name}.high": quantizer.max_val}
    schemes = {name: asdict(module.scheme) for name, module in fake_quantized_modules(model)}
    with atomic_path(path) as partial:
        save_file(tensors, partial, {"schemes": json.dumps(schemes), "frozen": json.dumps(frozen)})


def load_quantization(model: PreTrainedModel, directory: str | Path) -> bool:
    """Restore the quantization of a saved model: same schemes, same ranges, same logits.

    Args:
        model: with the weights of ``directory``. If a recipe has inserted fake quantizers already, only the ranges are
            restored.
        directory: of a saved model, quantized or not.

    Returns:
        Whether the saved model is quantized.

    Raises:
        QuantizationError: the file is damaged, or does not fit the model or its recipe.
    """
    path = Path(directory) / QUANTIZATION_FILE
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            schemes = {name: _scheme(qargs) for name, qargs in json.loads(file.metadata()["schemes"]).items()}
            frozen = json.loads(file.metadata()["frozen"])
        ranges = load_file(path)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise QuantizationError(f"{path} is not a file of quantization ranges: {error}") from error
    present = {name: module.scheme for name, module in fake_quantized_modules(model)}
    differing = [name for name in present.keys() | schemes.keys() if present.get(name) != schemes.get(name)]
    if present and differing:
        raise QuantizationError(
            f"{path}: the saved model's quantization differs from the recipe's, e.g. at {min(differing)}; "
            "remove the file to start from the model's fp32 weights"
        )
    try:
        insert_fake_quantizers(model, {} if present else schemes)
        for name, quantizer in quantizers(model).items():
            quantizer.observer_enabled = not frozen
            if f"{name}.low" in ranges:
                quantizer.set_range(ranges[f"{name}.low"], ranges[f"{name}.high"])
    except (AttributeError, StopIteration, RuntimeError) as error:
        raise QuantizationError(f"{path} was not saved with this model: {error}") from error
    enable_fake_quant(model, True)
    return True


def _scheme(tensors: Mapping[str, Mapping | None]) -> Scheme:
    return Scheme(**{name: None if qargs is None else QuantizationArgs(**qargs) for name, qargs in tensors.items()})
