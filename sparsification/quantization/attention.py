"""Fake quantization of attention's two matrix products, as an attention function for Transformers.

An attention module holds the fake quantizers of its products as ``matmul_quantizers``. Transformers calls
``fake_quantized_attention`` while the model's attention implementation is ``ATTENTION``.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING

import torch
import torch.nn as nn
from torch import Tensor

from sparsification.quantization.fake_quantize import make_quantizer
from sparsification.quantization.scheme import Scheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "fake_quantized"  # name of the attention function in Transformers


class AttentionQuantizers(nn.Module):
    """Fake quantizers of an attention module's two matrix products."""

    def __init__(self, scheme: Scheme):
        super().__init__()
        self.scheme = scheme
        self.fake_quant_enabled = False
        # The second factor has the role of a weight in a Linear layer: inference engines require it to be symmetric.
        self.query, self.key = make_quantizer(scheme.inputs), make_quantizer(scheme.weights)
        self.probabilities, self.value = make_quantizer(scheme.inputs), make_quantizer(scheme.weights)
        self.scores, self.context = make_quantizer(scheme.outputs), make_quantizer(scheme.outputs)


def fake_quantized_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,  # Transformers passes the same arguments to all attention functions
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention with fake-quantized factors of both products.

    Args:
        module: the attention module, with its ``matmul_quantizers``.
        query: (batch, heads, sequence, head size).
        key: as ``query``, or with fewer heads in grouped-query attention.
        value: as ``key``.
        attention_mask: added to the scores, broadcast to (batch, heads, sequence, sequence).
        scaling: factor of the scores; None: 1 / sqrt(head size).
        dropout: probability of dropping an attention weight.

    Returns:
        Context (batch, sequence, heads, head size) and probabilities.
    """
    quantizers = module.matmul_quantizers
    assert isinstance(quantizers, AttentionQuantizers)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    key, value = repeat_heads(key, query), repeat_heads(value, query)
    with torch.autocast(query.device.type, enabled=False):
        scores = quantizers.query(query.float()) @ quantizers.key(key.float()).transpose(2, 3)
        scores = quantizers.scores(scores) * scaling
        if attention_mask is not None:
            scores = scores + attention_mask
        probabilities = nn.functional.dropout(scores.softmax(dim=-1), dropout, module.training)
        context = quantizers.context(quantizers.probabilities(probabilities) @ quantizers.value(value.float()))
        return context.transpose(1, 2).contiguous(), probabilities


def repeat_heads(factor: Tensor, query: Tensor) -> Tensor:
    """Repeat the heads of a key or value if it has fewer than the query (grouped-query attention).

    Args:
        factor: (batch, key heads, sequence, head size).
        query: (batch, heads, sequence, head size).

    Returns:
        (batch, heads, sequence, head size).
    """
    count, heads = query.shape[1], factor.shape[1]
    return factor if heads == count else factor.repeat_interleave(count // heads, dim=1)


def register_attention() -> None:
    """Register the attention function with Transformers, imported here because the import takes seconds."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(ATTENTION, fake_quantized_attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)


def attention_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Find the modules whose attention function ``fake_quantized_attention`` can replace, by name."""
    # Transformers' attention functions read this attribute, so that modules that call one have it.
    calling = {name: module for name, module in model.named_modules() if "is_causal" in vars(module)}
    replaceable = {name: module for name, module in calling.items() if _computes_plain_attention(module)}
    return replaceable if model._can_set_attn_implementation() else {}


def _computes_plain_attention(module: nn.Module) -> bool:
    """Tell whether the model's own attention function takes no argument that ours ignores (T5: position biases)."""
    eager = vars(sys.modules[type(module).__module__]).get("eager_attention_forward")
    ours = inspect.signature(fake_quantized_attention).parameters
    return eager is not None and set(inspect.signature(eager).parameters) <= set(ours)
