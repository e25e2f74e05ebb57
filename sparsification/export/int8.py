"""Integer counterparts of the fake-quantized modules, which export as ONNX's own int8 operators.

There are two forms, because no form is fast in every engine:

- QDQ (ONNX Runtime, OpenVINO): QuantizeLinear and DequantizeLinear around each product; int8 weights go straight into
  DequantizeLinear. The engine fuses what it can; what it cannot fuse is still correct.
- MatMulInteger (DeepSparse): the products are computed in integers, and one factor rescales their sums.

The left factor of a product is uint8, the right one int8, as VNNI multiplies them. Where a quantizer has the other
sign, its zero point is shifted, which changes no value.
"""

from collections.abc import Callable

import torch
import torch.nn as nn
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import bidirectional_mask_function, eager_mask

from sparsification.export.operators import dequantize_linear, matmul_integer, quantize_linear
from sparsification.quantization.attention import AttentionQuantizers, repeat_heads
from sparsification.quantization.fake_quantize import FakeQuantize
from sparsification.quantization.modules import (
    FakeQuantizedEmbedding,
    FakeQuantizedLinear,
    fake_quantized_modules,
    replace_module,
)

ATTENTION = "int8_for_export"  # name of the attention function below in Transformers


class _IntegerQuantizer(nn.Module):
    """A fake quantizer as QuantizeLinear and DequantizeLinear.

    Args:
        quantizer: its range must be final.
        signed: quantize to int8, else to uint8.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, quantizer: FakeQuantize, signed: bool):
        super().__init__()
        qargs = quantizer.qargs
        half = 2 ** (qargs.bits - 1)
        self.shift = 0 if qargs.symmetric == signed else -half if signed else half
        self.register_buffer("scale", quantizer.scale.clone())
        zero_point = (quantizer.zero_point + self.shift).to(torch.int8 if signed else torch.uint8)
        self.register_buffer("zero_point", zero_point)
        # QuantizeLinear clamps to 8 bits only. What has a scale for each channel is a weight, and stored as integers.
        self.ends: list[float] | None = None
        if qargs.bits < 8 and not qargs.per_channel:
            ends = qargs.quant_min, qargs.quant_max
            self.ends = [float((end - quantizer.zero_point) * quantizer.scale) for end in ends]

    def quantize(self, x: Tensor) -> Tensor:
        return quantize_linear(x if self.ends is None else x.clamp(*self.ends), self.scale, self.zero_point)

    def dequantize(self, integers: Tensor, factor: float = 1.0) -> Tensor:
        """Dequantize, times a factor that is folded into the scale."""
        # Folding a factor of 1 would rename the scale in the file.
        return dequantize_linear(integers, self.scale if factor == 1.0 else self.scale * factor, self.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        return self.dequantize(self.quantize(x))


def _product(
    a: Tensor, a_quantizer: _IntegerQuantizer, b: Tensor, b_quantizer: _IntegerQuantizer, factor: float = 1.0
) -> Tensor:
    """``a @ b`` in fp32 from integer factors, times a factor that is folded into the scale."""
    sums = matmul_integer(a, b, a_quantizer.zero_point, b_quantizer.zero_point)
    return sums.float() * (a_quantizer.scale * b_quantizer.scale * factor)


class _Int8Linear(nn.Module):
    """A Linear layer with its weight in int8, stored as MatMul needs it: (in, out)."""

    weight: Tensor

    def __init__(self, linear: FakeQuantizedLinear, in_integers: bool):
        super().__init__()
        assert isinstance(linear.weight_quantizer, FakeQuantize)
        self.input_quantizer, self.output_quantizer = linear.input_quantizer, linear.output_quantizer
        self.in_integers = in_integers
        self.weight_quantizer, integers = _stored(linear.weight, linear.weight_quantizer)
        self.register_buffer("weight", integers.t().contiguous())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if self.in_integers and isinstance(self.input_quantizer, _IntegerQuantizer):
            x = _product(self.input_quantizer.quantize(x), self.input_quantizer, self.weight, self.weight_quantizer)
        else:
            x = self.input_quantizer(x) @ self.weight_quantizer.dequantize(self.weight)
        return self.output_quantizer(x if self.bias is None else x + self.bias)


class _Int8Embedding(nn.Module):
    """An embedding with its table in int8; only the rows that are looked up are dequantized."""

    weight: Tensor

    def __init__(self, embedding: FakeQuantizedEmbedding):
        super().__init__()
        assert isinstance(embedding.weight_quantizer, FakeQuantize)
        self.output_quantizer = embedding.output_quantizer
        self.weight_quantizer, integers = _stored(embedding.weight, embedding.weight_quantizer)
        self.register_buffer("weight", integers)

    def forward(self, ids: Tensor) -> Tensor:
        return self.output_quantizer(self.weight_quantizer.dequantize(nn.functional.embedding(ids, self.weight)))


def _stored(weight: Tensor, quantizer: FakeQuantize) -> tuple[_IntegerQuantizer, Tensor]:
    """The quantizer of a weight, and the weight in int8."""
    stored = _IntegerQuantizer(quantizer, signed=True)
    return stored, (quantizer.quantize(weight).int() + stored.shift).to(torch.int8)


class _Int8Attention(nn.Module):
    """``quantization.attention.fake_quantized_attention`` on integers."""

    query: nn.Module
    key: nn.Module
    scores: nn.Module
    probabilities: nn.Module
    value: nn.Module
    context: nn.Module

    def __init__(self, quantizers: AttentionQuantizers, in_integers: bool):
        super().__init__()
        for name, quantizer in quantizers.named_children():
            self.add_module(name, quantizer)
        self.in_integers = in_integers

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        # Unless the scores are quantized, the query's scale takes the factor: multiplying all scores, at length 384,
        # would take ten times as long.
        factor = 1.0 if isinstance(self.scores, _IntegerQuantizer) else scaling
        if self.in_integers and isinstance(self.query, _IntegerQuantizer) and isinstance(self.key, _IntegerQuantizer):
            # DeepSparse needs the transposition after the quantization.
            key = self.key.quantize(key).transpose(2, 3)
            scores = _product(self.query.quantize(query), self.query, key, self.key, factor)
        elif isinstance(self.query, _IntegerQuantizer):
            scores = self.query.dequantize(self.query.quantize(query), factor) @ self.key(key).transpose(2, 3)
        else:
            scores = (query @ self.key(key).transpose(2, 3)) * factor
        if factor != scaling:
            scores = self.scores(scores) * scaling
        probabilities = (scores if mask is None else scores + mask).softmax(dim=-1)
        first, second = self.probabilities, self.value
        if self.in_integers and isinstance(first, _IntegerQuantizer) and isinstance(second, _IntegerQuantizer):
            context = _product(first.quantize(probabilities), first, second.quantize(value), second)
        else:
            context = first(probabilities) @ second(value)
        return self.context(context).transpose(1, 2)


def _int8_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,  # Transformers passes all arguments to every attention function
) -> tuple[Tensor, None]:
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    key, value = repeat_heads(key, query), repeat_heads(value, query)
    quantizers = module.matmul_quantizers
    assert isinstance(quantizers, _Int8Attention)
    return quantizers(query, key, value, attention_mask, scaling), None


def _padding_mask(
    *, mask_function: Callable, attention_mask: Tensor | None = None, dtype: torch.dtype = torch.float32, **kwargs
) -> Tensor | None:
    """``eager_mask``, but (batch, 1, 1, sequence) where only padding is masked: 65 operators fewer in the graph."""
    if mask_function is not bidirectional_mask_function or attention_mask is None:
        return eager_mask(mask_function=mask_function, attention_mask=attention_mask, dtype=dtype, **kwargs)
    return torch.where(attention_mask[:, None, None, :].bool(), torch.zeros((), dtype=dtype), torch.finfo(dtype).min)


AttentionInterface.register(ATTENTION, _int8_attention)
AttentionMaskInterface.register(ATTENTION, _padding_mask)


def to_int8(model: PreTrainedModel, in_integers: bool) -> None:
    """Replace the fake-quantized modules of a model by those whose ONNX export is an int8 graph.

    Args:
        model: fake-quantized, in eval mode, with the ranges of all its quantizers; changed in place.
        in_integers: use the MatMulInteger form, else the QDQ form.
    """
    for name, module in list(fake_quantized_modules(model)):
        for part, quantizer in list(module.named_children()):
            # A weight's quantizer is needed below, to store the weight.
            if isinstance(quantizer, FakeQuantize) and part != "weight_quantizer":
                setattr(module, part, _IntegerQuantizer(quantizer, signed=part in ("key", "value")))
        if isinstance(module, AttentionQuantizers):
            model.get_submodule(name).matmul_quantizers = _Int8Attention(module, in_integers)
            model.set_attn_implementation(ATTENTION)
        elif isinstance(module, FakeQuantizedLinear) and isinstance(module.weight_quantizer, FakeQuantize):
            replace_module(model, name, _Int8Linear(module, in_integers))
        elif isinstance(module, FakeQuantizedEmbedding) and isinstance(module.weight_quantizer, FakeQuantize):
            replace_module(model, name, _Int8Embedding(module))
