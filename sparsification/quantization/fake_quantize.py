"""Fake quantization of tensors, with moving-average observers of their ranges.

A tensor is rounded to integers times a scale and stays a floating-point tensor, so that training accounts for the
rounding errors of the int8 model. Gradients pass straight through for values inside the range and are zero outside of
it. Jacob et al. 2018, arXiv:1712.05877, section 3.
"""

from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

AVERAGING_CONSTANT = 0.01  # weight of the newest batch in the moving average; SparseML's value, torch's default


@dataclass(frozen=True)
class QuantizationArgs:
    """Integers that a tensor is rounded to."""

    bits: int = 8
    symmetric: bool = True  # True: signed integers, zero point 0; False: unsigned integers with a zero point
    per_channel: bool = False  # True: one scale for each index of dimension 0; False: one for the tensor

    def __post_init__(self) -> None:
        """Check the bits: they may come from a file, and 2**bits of a large number does not fit into memory."""
        if type(self.bits) is not int or not 2 <= self.bits <= 8:
            raise ValueError(f"bits must be 2 to 8, got {self.bits!r}")

    @property
    def quant_min(self) -> int:
        return -(2 ** (self.bits - 1)) if self.symmetric else 0

    @property
    def quant_max(self) -> int:
        return self.quant_min + 2**self.bits - 1


def calculate_qparams(min_val: Tensor, max_val: Tensor, qargs: QuantizationArgs) -> tuple[Tensor, Tensor]:
    """Compute the quantization parameters of a range.

    The range is extended to contain 0, and 0 is represented exactly, so that pruned weights stay 0.

    Args:
        min_val: smallest values, float32, a scalar or (channels,).
        max_val: largest values, of the same shape.
        qargs: the integers.

    Returns:
        Scale (float32) and zero point (int32), of that shape: number = scale · (integer - zero point).
    """
    min_val, max_val = min_val.clamp(max=0.0), max_val.clamp(min=0.0)
    smallest = torch.finfo(torch.float32).eps
    if qargs.symmetric:
        scale = torch.maximum(-min_val, max_val) / ((qargs.quant_max - qargs.quant_min) / 2)
        return scale.clamp(min=smallest), torch.zeros_like(scale, dtype=torch.int32)
    scale = ((max_val - min_val) / (qargs.quant_max - qargs.quant_min)).clamp(min=smallest)
    zero_point = qargs.quant_min - torch.round(min_val / scale).to(torch.int32)
    return scale, zero_point.clamp(qargs.quant_min, qargs.quant_max)


class _FakeQuantizeOnCpu(torch.autograd.Function):
    """Vectorized ``torch.fake_quantize_per_{tensor,channel}_affine`` with bit-identical results.

    On a CPU torch's own operators are not vectorized and take eight times as long.
    """

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int) -> Tensor:
        if scale.dim() == 1:
            shape = (-1, *[1] * (x.dim() - 1))
            scale, zero_point = scale.view(shape), zero_point.view(shape)
        low, high = quant_min - zero_point, quant_max - zero_point
        integers = (x * (1 / scale)).round_()
        ctx.save_for_backward(integers, low, high)
        return integers.clamp(low, high).mul_(scale)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        integers, low, high = ctx.saved_tensors
        if low.dim() == 0:  # One pass instead of four. It excludes the bounds, hence the 0.5.
            inside = torch.ops.aten.hardtanh_backward(gradient, integers, low.item() - 0.5, high.item() + 0.5)
        else:
            inside = gradient * ((integers >= low) & (integers <= high))
        return inside, None, None, None, None


class FakeQuantize(nn.Module):
    """Fake quantization of one tensor, with an observer of its range.

    The range follows the tensor in training mode while ``observer_enabled`` is set. It is not in ``state_dict``, so
    that the checkpoint of a quantized model is a plain one. Before the first observation there is no range, and tensors
    are returned unchanged.

    Args:
        qargs: the integers.
        num_channels: size of dimension 0 of the tensor, used if ``qargs`` are per channel.
    """

    min_val: Tensor  # float32, a scalar or (channels,), as scale
    max_val: Tensor
    scale: Tensor
    zero_point: Tensor  # int32

    def __init__(self, qargs: QuantizationArgs, num_channels: int = 1):
        super().__init__()
        self.qargs = qargs
        self.observer_enabled = False
        self.observed = False
        # Inference engines divide by the scale. torch multiplies by its inverse, which rounds ties differently.
        self.divides = False
        shape = (num_channels,) if qargs.per_channel else ()
        for name in ("min_val", "max_val", "scale"):
            self.register_buffer(name, torch.zeros(shape), persistent=False)
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.observe_in_training(x)
        return self.fake_quantize(x)

    def observe_in_training(self, x: Tensor) -> None:
        """Update the range in training mode while ``observer_enabled`` is set."""
        if self.observer_enabled and self.training:
            self.observe(x)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Fake-quantize with the current quantization parameters, without observing."""
        if not self.observed:
            return x
        ends = self.qargs.quant_min, self.qargs.quant_max
        if self.divides:
            integers = (torch.round(x / self.scale) + self.zero_point).clamp(*ends)
            return (integers - self.zero_point) * self.scale
        if x.device.type == "cpu":
            return _FakeQuantizeOnCpu.apply(x, self.scale, self.zero_point, *ends)
        if self.qargs.per_channel:
            return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, 0, *ends)
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, *ends)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Update the range: set it from the first tensor, then as a moving average."""
        low, high = torch.aminmax(x.flatten(1), dim=1) if self.qargs.per_channel else torch.aminmax(x)
        low, high = _reduce_over_processes(low, high)
        if self.observed:
            low = self.min_val + AVERAGING_CONSTANT * (low - self.min_val)
            high = self.max_val + AVERAGING_CONSTANT * (high - self.max_val)
        self.set_range(low, high)

    def set_range(self, min_val: Tensor, max_val: Tensor) -> None:
        """Set the range, float32 tensors of the buffers' shape, and compute its quantization parameters."""
        self.observed = True
        self.min_val.copy_(min_val)
        self.max_val.copy_(max_val)
        scale, zero_point = calculate_qparams(self.min_val, self.max_val, self.qargs)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    def select(self, channels: Tensor) -> None:
        """Keep the ranges of the channels with these indices; the range of a whole tensor is unchanged."""
        if self.qargs.per_channel:
            self.min_val, self.max_val = self.min_val[channels], self.max_val[channels]
            self.scale, self.zero_point = self.scale[channels], self.zero_point[channels]

    def quantize(self, x: Tensor) -> Tensor:
        """Return the integers that ``x`` is rounded to, int8 if symmetric, else uint8."""
        shape = (-1, *[1] * (x.dim() - 1)) if self.qargs.per_channel else ()
        # Multiplies by the inverse as torch's fake_quantize does.
        integers = torch.round(x * (1 / self.scale).reshape(shape)) + self.zero_point.reshape(shape)
        dtype = torch.int8 if self.qargs.symmetric else torch.uint8
        return integers.clamp(self.qargs.quant_min, self.qargs.quant_max).to(dtype)

    def extra_repr(self) -> str:
        return f"{self.qargs}, observing={self.observer_enabled}, observed={self.observed}"


def make_quantizer(qargs: QuantizationArgs | None, num_channels: int = 1) -> nn.Module:
    """Make the fake quantizer of a tensor, or an Identity where ``qargs`` is None."""
    return nn.Identity() if qargs is None else FakeQuantize(qargs, num_channels)


def _reduce_over_processes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the range over the batches of all processes: the range that one process with all of them would see."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return low, high
    ends = torch.stack([-low, high])
    torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX)
    return -ends[0], ends[1]
