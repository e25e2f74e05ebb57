"""Fake quantizers that SparseML saved in its weights file: their names here, ranges and integers.

SparseML saves each range as several keys of the weights file. The integers that a tensor is rounded to are not saved.
They are found by comparison: those whose scale and zero point, computed from the saved range, equal the saved ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsification.compat.sparseml_files import SparseMLFormatError
from sparsification.quantization.fake_quantize import QuantizationArgs, calculate_qparams
from sparsification.quantization.modules import enable_fake_quant, insert_fake_quantizers, quantizers
from sparsification.quantization.scheme import Scheme

# Attention's matrix products: SparseML's name of a quantizer, and the name here.
_MATMULS = {
    "attention_scores_matmul.input_quant_stubs.0": "matmul_quantizers.query",
    "attention_scores_matmul.input_quant_stubs.1": "matmul_quantizers.key",
    "attention_scores_matmul.output_quant_stubs.0": "matmul_quantizers.scores",
    "context_layer_matmul.input_quant_stubs.0": "matmul_quantizers.probabilities",
    "context_layer_matmul.input_quant_stubs.1": "matmul_quantizers.value",
    "context_layer_matmul.output_quant_stubs.0": "matmul_quantizers.context",
}
# The field of a Scheme that a quantizer belongs to, by the quantizer's name here.
_FIELDS = {
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


@dataclass(frozen=True)
class SavedRange:
    """The state of one of SparseML's fake quantizers: tensors of one element, or of one per channel."""

    min_val: Tensor
    max_val: Tensor
    scale: Tensor
    zero_point: Tensor


def split_state(saved: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, SavedRange]]:
    """Separate the keys of a weights file.

    Returns:
        The weights under their plain names, and the ranges under the names of the quantizers here.

    Raises:
        SparseMLFormatError: a quantizer is incomplete, or has observed nothing.
    """
    state: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in saved.items():
        # The outermost quantizer of the name: its observer has the same name as itself.
        match = re.match(r"(.*?\.(?:weight_fake_quant|activation_post_process))\.(.*)", name)
        if match:
            parts.setdefault(match[1], {})[match[2]] = tensor
        else:
            state[name.replace(".module.", ".")] = tensor
    return state, {our_name(name): _saved_range(name, found) for name, found in parts.items()}


def our_name(name: str) -> str:
    """Translate SparseML's name of a fake quantizer into the name here."""
    for theirs, ours in _MATMULS.items():
        if theirs in name:
            return name.replace(f"{theirs}.activation_post_process", ours)
    if name.endswith(".quant.activation_post_process"):
        return name.replace(".quant.activation_post_process", ".input_quantizer")
    name = name.replace(".module.", ".")
    return name.replace("weight_fake_quant", "weight_quantizer").replace("activation_post_process", "output_quantizer")


def _saved_range(name: str, parts: Mapping[str, Tensor]) -> SavedRange:
    observer = "activation_post_process."
    keys = (f"{observer}min_val", f"{observer}max_val", "scale", "zero_point", "fake_quant_enabled")
    missing = [key for key in keys if key not in parts]
    if missing:
        raise SparseMLFormatError(f"the quantizer {name} has no {missing[0]}: it is not one of torch's fake quantizers")
    min_val, max_val, scale, zero_point, enabled = (parts[key] for key in keys)
    if not enabled.any() or not min_val.isfinite().all() or not max_val.isfinite().all():
        raise SparseMLFormatError(
            f"the quantizer {name} has observed nothing: the model was saved before quantization started"
        )
    return SavedRange(min_val, max_val, scale, zero_point)


def restore_quantization(model: PreTrainedModel, ranges: Mapping[str, SavedRange]) -> None:
    """Insert fake quantizers with the saved ranges into a model, and enable them.

    Raises:
        SparseMLFormatError: the ranges do not fit the model.
    """
    fields: dict[str, dict[str, QuantizationArgs]] = {}
    for name, saved in ranges.items():
        module, _, quantizer = name.rpartition(".")
        scheme, field = fields.setdefault(module.removesuffix(".matmul_quantizers"), {}), _FIELDS[quantizer]
        qargs = find_qargs(name, saved)
        if scheme.setdefault(field, qargs) != qargs:
            raise SparseMLFormatError(f"{name}: both matrix products of an attention module must have the same scheme")
    try:
        insert_fake_quantizers(model, {name: Scheme(**scheme) for name, scheme in fields.items()})
    except (AttributeError, StopIteration) as error:
        raise SparseMLFormatError(
            f"a quantized module is not part of {type(model).__name__}, or of another type: {error}"
        ) from error
    ours = quantizers(model)
    for name in ours.keys() ^ ranges.keys():
        raise SparseMLFormatError(f"the quantizer {name} is {'not saved' if name in ours else 'unknown here'}")
    for name, fake_quantize in ours.items():
        saved, shape = ranges[name], fake_quantize.min_val.shape
        fake_quantize.set_range(saved.min_val.reshape(shape), saved.max_val.reshape(shape))
    enable_fake_quant(model, True)


def find_qargs(name: str, saved: SavedRange) -> QuantizationArgs:
    """Find the integers of a quantizer: those whose scale and zero point over the saved range are the saved ones.

    Args:
        name: of the quantizer, for the error.
        saved: its state.

    Raises:
        SparseMLFormatError: no integers of 2 to 8 bits have them.
    """
    min_val, max_val = saved.min_val.float().flatten(), saved.max_val.float().flatten()
    for bits in range(8, 1, -1):
        for symmetric in (True, False):
            qargs = QuantizationArgs(bits, symmetric, per_channel=min_val.numel() > 1)
            scale, zero_point = calculate_qparams(min_val, max_val, qargs)
            # Symmetric integers are signed here and asymmetric ones unsigned; SparseML has both signs of both.
            half = 2 ** (bits - 1)
            shift = saved.zero_point.flatten() - zero_point
            same_zero = shift.eq(0) | shift.eq(half if symmetric else -half)
            if torch.allclose(scale, saved.scale.flatten(), rtol=1e-5, atol=0) and same_zero.all():
                return qargs
    raise SparseMLFormatError(f"no integers of 2 to 8 bits have the scale and zero point of {name} over its range")
