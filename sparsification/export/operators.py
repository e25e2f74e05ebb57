"""ONNX's int8 operators as PyTorch functions that both of its exporters can write.

The TorchScript exporter calls ``symbolic`` of an autograd Function; the dynamo exporter writes the node that
``torch.onnx.ops.symbolic`` stands for.
"""

import torch
from torch import Tensor


def quantize_linear(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """QuantizeLinear: fp32 to integers of the zero point's type, uint8 or int8.

    Args:
        x: any shape.
        scale: fp32, one for the whole tensor.
        zero_point: uint8 or int8, shaped like ``scale``.
    """
    if torch.compiler.is_exporting():
        inputs = (x, scale, zero_point)
        return torch.onnx.ops.symbolic("QuantizeLinear", inputs, dtype=zero_point.dtype, shape=x.shape)
    return _QuantizeLinear.apply(x, scale, zero_point)


def dequantize_linear(integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """DequantizeLinear: integers to fp32.

    Args:
        integers: uint8 or int8, any shape.
        scale: fp32, one for the whole tensor, or one for each index of the last of two dimensions.
        zero_point: of the integers' type, shaped like ``scale``.
    """
    if torch.compiler.is_exporting():
        inputs = (integers, scale, zero_point)
        return torch.onnx.ops.symbolic("DequantizeLinear", inputs, {"axis": 1}, dtype=scale.dtype, shape=integers.shape)
    return _DequantizeLinear.apply(integers, scale, zero_point)


def matmul_integer(a: Tensor, b: Tensor, a_zero_point: Tensor, b_zero_point: Tensor) -> Tensor:
    """MatMulInteger: product of two integer matrices minus their zero points, in int32.

    Args:
        a: uint8 [..., n, k].
        b: int8 [..., k, m].
        a_zero_point: uint8, one for the whole tensor.
        b_zero_point: int8, one for the whole tensor, or one for each of the m columns.
    """
    if torch.compiler.is_exporting():
        inputs, shape = (a, b, a_zero_point, b_zero_point), (*a.shape[:-1], b.shape[-1])
        return torch.onnx.ops.symbolic("MatMulInteger", inputs, dtype=torch.int32, shape=shape)
    return _MatMulInteger.apply(a, b, a_zero_point, b_zero_point)


class _QuantizeLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        ends = torch.iinfo(zero_point.dtype)
        return (torch.round(x / scale) + zero_point).clamp(ends.min, ends.max).to(zero_point.dtype)

    @staticmethod
    def symbolic(g, x, scale, zero_point):
        return g.op("QuantizeLinear", x, scale, zero_point)


class _DequantizeLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, integers: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        return (integers.float() - zero_point.float()) * scale

    @staticmethod
    def symbolic(g, integers, scale, zero_point):
        return g.op("DequantizeLinear", integers, scale, zero_point, axis_i=1)


class _MatMulInteger(torch.autograd.Function):
    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, a_zero_point: Tensor, b_zero_point: Tensor) -> Tensor:
        # In float64 the sums are exact as well, and fast.
        return ((a.double() - a_zero_point.double()) @ (b.double() - b_zero_point.double())).int()

    @staticmethod
    def symbolic(g, a, b, a_zero_point, b_zero_point):
        return g.op("MatMulInteger", a, b, a_zero_point, b_zero_point)
