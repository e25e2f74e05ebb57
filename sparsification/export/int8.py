"""How does a fake-quantized model become an int8 graph?

Each module that rounds numbers is swapped for one that keeps integers and emits ONNX's own operators. There are two
forms, because no form is fast in every engine:

- QDQ (ONNX Runtime, OpenVINO): QuantizeLinear and DequantizeLinear stand around each product, int8 weights go straight
  into DequantizeLinear. The engine fuses what it can; what it cannot fuse is still right.
- MatMulInteger (DeepSparse): the products are written in integers, and one factor turns their sums into numbers.

The left factor of a product is uint8, the right one int8: that is what VNNI multiplies. A grid of the other sign is
shifted with its zero point, which changes no number.

Rounding makes a deep model chaotic: a difference in the last bit becomes a step of the grid, then many. Two right int8
models differ more at their outputs than a right one and one with a wrong scale. So the modules' own inputs and outputs
are recorded in the graph while it is checked, and each module is compared for itself, where nothing can add up.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import onnx
import torch
import torch.nn as nn
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import bidirectional_mask_function, eager_mask

from sparsification.quantization.attention import AttentionQuantizers, fake_quantized_attention, repeat_heads
from sparsification.quantization.fake_quantize import FakeQuantize
from sparsification.quantization.modules import (
    FakeQuantizedEmbedding,
    FakeQuantizedLinear,
    fake_quantized_modules,
    quantizers,
    replace_module,
)

ATTENTION = "int8_for_export"  # the name of our attention function in Transformers
_VNNI = {"avx512_vnni", "avx_vnni", "asimddp"}  # asimddp: ARM's instruction of the same kind


def has_vnni(cpuinfo: str | None = None) -> bool | None:
    """Whether the CPU adds products of 8-bit integers in 32 bits.

    Without VNNI, x86 adds pairs of them in 16 bits, where those of uint8 and full int8 overflow.

    Args:
        cpuinfo: the text of ``/proc/cpuinfo``; that of this machine by default.

    Returns:
        None where it cannot be told: no Linux, or no list of flags.
    """
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text()
        except OSError:
            return None
    flags = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith(("flags", "Features"))]
    return not _VNNI.isdisjoint(flags[0]) if flags else None


class _Quantize(torch.autograd.Function):
    """Numbers to integers of the zero point's type."""

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        ends = torch.iinfo(zero_point.dtype)
        return (torch.round(x / scale) + zero_point).clamp(ends.min, ends.max).to(zero_point.dtype)

    @staticmethod
    def symbolic(g, x, scale, zero_point):
        return g.op("QuantizeLinear", x, scale, zero_point)


class _Dequantize(torch.autograd.Function):
    """Integers to numbers; per channel, scale and zero point belong to the last dimension."""

    @staticmethod
    def forward(ctx, integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        return (integers.float() - zero_point.float()) * scale

    @staticmethod
    def symbolic(g, integers, scale, zero_point):
        return g.op("DequantizeLinear", integers, scale, zero_point, axis_i=1)


class _MatMulInteger(torch.autograd.Function):
    """The product of two matrices of integers, less their zero points, in int32."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, a_zero_point: Tensor, b_zero_point: Tensor) -> Tensor:
        # In float64 the sums are exact, too, and fast.
        return ((a.double() - a_zero_point.double()) @ (b.double() - b_zero_point.double())).int()

    @staticmethod
    def symbolic(g, a, b, a_zero_point, b_zero_point):
        return g.op("MatMulInteger", a, b, a_zero_point, b_zero_point)


class _IntegerQuantizer(nn.Module):
    """The integers of a fake quantizer, in ONNX's operators.

    Args:
        quantizer: with its range.
        signed: int8; else uint8.
    """

    def __init__(self, quantizer: FakeQuantize, signed: bool):
        super().__init__()
        qargs = quantizer.qargs
        half = 2 ** (qargs.bits - 1)
        self.shift = 0 if qargs.symmetric == signed else -half if signed else half
        self.register_buffer("scale", quantizer.scale.clone())
        zero_point = (quantizer.zero_point + self.shift).to(torch.int8 if signed else torch.uint8)
        self.register_buffer("zero_point", zero_point)
        # QuantizeLinear knows the ends of 8 bits only.
        self.ends = None
        if qargs.bits < 8:
            ends = qargs.quant_min, qargs.quant_max
            self.ends = [float((end - quantizer.zero_point) * quantizer.scale) for end in ends]

    def quantize(self, x: Tensor) -> Tensor:
        return _Quantize.apply(x if self.ends is None else x.clamp(*self.ends), self.scale, self.zero_point)

    def dequantize(self, integers: Tensor, factor: float = 1.0) -> Tensor:
        """The integers' numbers, times a factor that costs nothing."""
        # Times 1 would cost the scale its name in the file.
        return _Dequantize.apply(integers, self.scale if factor == 1.0 else self.scale * factor, self.zero_point)

    def forward(self, x: Tensor) -> Tensor:
        return self.dequantize(self.quantize(x))


def _product(
    a: Tensor, a_quantizer: _IntegerQuantizer, b: Tensor, b_quantizer: _IntegerQuantizer, factor: float = 1.0
) -> Tensor:
    """The numbers of ``a @ b``, multiplied as integers, times a factor that costs nothing."""
    sums = _MatMulInteger.apply(a, b, a_quantizer.zero_point, b_quantizer.zero_point)
    return sums.float() * (a_quantizer.scale * b_quantizer.scale * factor)


class _Int8Linear(nn.Module):
    """A Linear layer with its weight in int8, stored as MatMul wants it: (in, out)."""

    def __init__(self, linear: FakeQuantizedLinear, in_integers: bool):
        super().__init__()
        self.input_quantizer, self.output_quantizer = linear.input_quantizer, linear.output_quantizer
        self.in_integers = in_integers and isinstance(self.input_quantizer, _IntegerQuantizer)
        self.weight_quantizer, integers = _stored(linear.weight, linear.weight_quantizer)
        self.register_buffer("weight", integers.t().contiguous())
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        if self.in_integers:
            x = _product(self.input_quantizer.quantize(x), self.input_quantizer, self.weight, self.weight_quantizer)
        else:
            x = self.input_quantizer(x) @ self.weight_quantizer.dequantize(self.weight)
        return self.output_quantizer(x if self.bias is None else x + self.bias)


class _Int8Embedding(nn.Module):
    """An embedding with its table in int8; only the rows that are looked up become numbers."""

    def __init__(self, embedding: FakeQuantizedEmbedding):
        super().__init__()
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

    def __init__(self, quantizers: AttentionQuantizers, in_integers: bool):
        super().__init__()
        for name, quantizer in quantizers.named_children():
            self.add_module(name, quantizer)
        self.scores_in_integers = in_integers and _are_quantized(self.query, self.key)
        self.context_in_integers = in_integers and _are_quantized(self.probabilities, self.value)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float) -> Tensor:
        # Where the scores are not on a grid, a scale is scaled in place of all of them: a tenth of the time at 384.
        factor = 1.0 if isinstance(self.scores, _IntegerQuantizer) else scaling
        if self.scores_in_integers:
            # DeepSparse wants the integers transposed, not the numbers.
            key = self.key.quantize(key).transpose(2, 3)
            scores = _product(self.query.quantize(query), self.query, key, self.key, factor)
        elif isinstance(self.query, _IntegerQuantizer):
            scores = self.query.dequantize(self.query.quantize(query), factor) @ self.key(key).transpose(2, 3)
        else:
            scores = (query @ self.key(key).transpose(2, 3)) * factor
        if factor != scaling:
            scores = self.scores(scores) * scaling
        probabilities = (scores if mask is None else scores + mask).softmax(dim=-1)
        if self.context_in_integers:
            probabilities = self.probabilities.quantize(probabilities)
            context = _product(probabilities, self.probabilities, self.value.quantize(value), self.value)
        else:
            context = self.probabilities(probabilities) @ self.value(value)
        return self.context(context).transpose(1, 2)


def _are_quantized(*modules: nn.Module) -> bool:
    return all(isinstance(module, _IntegerQuantizer) for module in modules)


def _int8_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,  # Transformers passes every attention function what any of them may need
) -> tuple[Tensor, None]:
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    key, value = repeat_heads(key, query), repeat_heads(value, query)
    return module.matmul_quantizers(query, key, value, attention_mask, scaling), None


def _padding_mask(
    *args, mask_function: Callable, attention_mask: Tensor | None = None, dtype: torch.dtype = torch.float32, **kwargs
) -> Tensor | None:
    """``eager_mask``, but (batch, 1, 1, sequence) where only padding is masked: 65 operators less in the graph."""
    if mask_function is not bidirectional_mask_function or attention_mask is None:
        return eager_mask(*args, mask_function=mask_function, attention_mask=attention_mask, dtype=dtype, **kwargs)
    return torch.where(attention_mask[:, None, None, :].bool(), torch.zeros((), dtype=dtype), torch.finfo(dtype).min)


AttentionInterface.register(ATTENTION, _int8_attention)
AttentionMaskInterface.register(ATTENTION, _padding_mask)


def to_int8(model: PreTrainedModel, in_integers: bool) -> None:
    """Make a fake-quantized model one whose ONNX export is an int8 graph.

    Args:
        model: quantizing, in eval mode, with the ranges of all its quantizers; swapped in place.
        in_integers: in the MatMulInteger form; else in the QDQ form.
    """
    for name, module in list(fake_quantized_modules(model)):
        for part, quantizer in list(module.named_children()):
            # A weight's is asked for its integers first.
            if isinstance(quantizer, FakeQuantize) and part != "weight_quantizer":
                setattr(module, part, _IntegerQuantizer(quantizer, signed=part in ("key", "value")))
        if isinstance(module, AttentionQuantizers):
            model.get_submodule(name).matmul_quantizers = _Int8Attention(module, in_integers)
            model.set_attn_implementation(ATTENTION)
        elif isinstance(getattr(module, "weight_quantizer", None), FakeQuantize):
            new = (
                _Int8Linear(module, in_integers) if isinstance(module, FakeQuantizedLinear) else _Int8Embedding(module)
            )
            replace_module(model, name, new)


def deduplicate(graph: onnx.GraphProto) -> None:
    """Take out the exporter's Identity nodes, and quantize once what is quantized alike by several.

    Query, key and value see one tensor, hence have one range: their scales are one initializer already.
    """
    outputs = {output.name for output in graph.output}
    other_name, quantized, nodes = {}, {}, []
    for node in graph.node:
        node.input[:] = [other_name.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.output[0] not in outputs:
            other_name[node.output[0]] = node.input[0]
            continue
        if node.op_type == "QuantizeLinear" and node.output[0] not in outputs:
            same = quantized.setdefault(tuple(node.input), node.output[0])
            if same != node.output[0]:
                other_name[node.output[0]] = same
                continue
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


class ActivationRecorder:
    """Makes what goes into modules, and what comes out of them, further outputs of a model.

    Args:
        model: gives a dictionary from now on, with ``tensors`` in it.
        modules: by the name to record them under; of one that runs several times, the first run is recorded.
    """

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module]):
        self.tensors: dict[str, Tensor] = {}
        # By module: its arguments, tensors by their name in ``tensors``; and the name of its output.
        self.calls: dict[str, tuple[list[object], str]] = {}
        model.register_forward_pre_hook(self._forget)
        for name, module in modules.items():
            module.register_forward_hook(partial(self._record, name))
        model.register_forward_hook(lambda model, inputs, outputs: {**outputs, **self.tensors})

    def _forget(self, *_) -> None:
        self.tensors.clear()
        self.calls.clear()

    def _record(self, name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if name not in self.calls:
            arguments = [self._keep(f"{name}:{index}", value) for index, value in enumerate(inputs)]
            self.calls[name] = arguments, self._keep(f"{name}:output", output)

    def _keep(self, name: str, value: object) -> object:
        if not isinstance(value, Tensor):
            return value
        known = next((known for known, tensor in self.tensors.items() if tensor is value), name)
        self.tensors[known] = value
        return known


def recorded_modules(model: PreTrainedModel, names: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """What ``to_int8`` made of quantized modules, by the names that these had."""
    modules = {name: model.get_submodule(name) for name in names}
    return {name: getattr(module, "matmul_quantizers", module) for name, module in modules.items()}


def module_differences(
    model: PreTrainedModel, calls: Mapping[str, tuple[list[object], str]], tensors: Mapping[str, Tensor]
) -> dict[str, float]:
    """How far each module of the int8 model is from the fake-quantized one, given the same inputs.

    Args:
        model: the fake-quantized one.
        calls: an ``ActivationRecorder``'s.
        tensors: what ran in the int8 model, by the recorder's names.

    Returns:
        Mean absolute difference of the output, relative to its mean absolute value, by module.
    """
    # Ties are no rare thing: what passes may lie on a grid already, as the rows of an embedding do.
    activations = [quantizer for name, quantizer in quantizers(model).items() if not name.endswith("weight_quantizer")]
    for quantizer in activations:
        quantizer.divides = True
    differences = {}
    for name, (arguments, output) in calls.items():
        module = model.get_submodule(name)
        inputs = [tensors[value] if isinstance(value, str) else value for value in arguments]
        if isinstance(getattr(module, "matmul_quantizers", None), AttentionQuantizers):
            expected, _ = fake_quantized_attention(module, *inputs)
        else:
            expected = module(*inputs)
        smallest = torch.finfo(torch.float32).tiny  # a layer may give nothing but zeros
        scale = expected.abs().mean().clamp(min=smallest)
        differences[name] = float((tensors[output] - expected).abs().mean() / scale)
    for quantizer in activations:
        quantizer.divides = False
    return differences
