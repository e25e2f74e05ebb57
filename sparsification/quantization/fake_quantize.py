"""What does a tensor look like after it has been through integers?

A tensor is rounded to a grid of integers times a scale, and goes on as floating-point numbers: the model learns to live
with what the int8 model will do to it. Gradients pass through as if nothing had been rounded, but for values outside of
the range. Jacob et al. 2018, arXiv:1712.05877, section 3.
"""

from dataclasses import dataclass

import torch
import torch.nn as nn
from torch import Tensor

AVERAGING_CONSTANT = 0.01  # share of the newest batch in a range; SparseML's, which is torch's default


@dataclass(frozen=True)
class QuantizationArgs:
    """The integers that a tensor is rounded to."""

    bits: int = 8
    symmetric: bool = True  # signed integers with zero point 0; else unsigned ones with a zero point
    per_channel: bool = False  # one scale for each index of dimension 0; else one for the whole tensor

    def __post_init__(self) -> None:
        """Refuse what a file may claim: the integers' ends are powers of 2, of a large number too large for memory."""
        if type(self.bits) is not int or not 2 <= self.bits <= 8:
            raise ValueError(f"bits must be 2 to 8, got {self.bits!r}")

    @property
    def quant_min(self) -> int:
        return -(2 ** (self.bits - 1)) if self.symmetric else 0

    @property
    def quant_max(self) -> int:
        return self.quant_min + 2**self.bits - 1


def calculate_qparams(low: Tensor, high: Tensor, qargs: QuantizationArgs) -> tuple[Tensor, Tensor]:
    """Place a grid over a range of numbers.

    0 is always on it, so that what is pruned stays 0.

    Args:
        low: smallest values, float32, a scalar or (channels,).
        high: largest values, of the same shape.
        grid: the integers.

    Returns:
        Scale (float32) and zero point (int32), of that shape: number = scale · (integer - zero point).
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    smallest = torch.finfo(torch.float32).eps
    if qargs.symmetric:
        scale = torch.maximum(-low, high) / ((qargs.quant_max - qargs.quant_min) / 2)
        return scale.clamp(min=smallest), torch.zeros_like(scale, dtype=torch.int32)
    scale = ((high - low) / (qargs.quant_max - qargs.quant_min)).clamp(min=smallest)
    zero_point = qargs.quant_min - torch.round(low / scale).to(torch.int32)
    return scale, zero_point.clamp(qargs.quant_min, qargs.quant_max)


class _RoundOnCpu(torch.autograd.Function):
    """``torch.fake_quantize_per_{tensor,channel}_affine``, bit by bit, in vectorized operators.

    On a CPU torch's own takes eight times as long: it goes through the numbers one by one.
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
        if low.dim() == 0:  # one pass in place of four; it leaves out the ends, hence the halves
            inside = torch.ops.aten.hardtanh_backward(gradient, integers, low.item() - 0.5, high.item() + 0.5)
        else:
            inside = gradient * ((integers >= low) & (integers <= high))
        return inside, None, None, None, None


class FakeQuantize(nn.Module):
    """Fake quantization of one tensor; its range follows the tensor while ``observer_enabled`` in training mode.

    The range is no part of ``state_dict``: a quantized model's checkpoint is a plain one. Until something has been
    observed there is no range, and tensors pass as they are.

    Args:
        grid: the integers.
        num_channels: size of dimension 0 of what will pass, where the grid is one per channel.
    """

    def __init__(self, qargs: QuantizationArgs, num_channels: int = 1):
        super().__init__()
        self.qargs = qargs
        self.observer_enabled = False
        self.observed = False
        self.divides = False  # by the scale, as engines do; torch multiplies by its inverse, which differs at ties
        shape = (num_channels,) if qargs.per_channel else ()
        for name in ("min_val", "max_val", "scale"):
            self.register_buffer(name, torch.zeros(shape), persistent=False)
        self.register_buffer("zero_point", torch.zeros(shape, dtype=torch.int32), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.observe_in_training(x)
        return self.fake_quantize(x)

    def observe_in_training(self, x: Tensor) -> None:
        """Observe, if this is the time for it."""
        if self.observer_enabled and self.training:
            self.observe(x)

    def fake_quantize(self, x: Tensor) -> Tensor:
        """Round to the grid as it lies."""
        if not self.observed:
            return x
        ends = self.qargs.quant_min, self.qargs.quant_max
        if self.divides:
            integers = (torch.round(x / self.scale) + self.zero_point).clamp(*ends)
            return (integers - self.zero_point) * self.scale
        if x.device.type == "cpu":
            return _RoundOnCpu.apply(x, self.scale, self.zero_point, *ends)
        if self.qargs.per_channel:
            return torch.fake_quantize_per_channel_affine(x, self.scale, self.zero_point, 0, *ends)
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, *ends)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Let the range follow: the first tensor's at first, then a moving average."""
        low, high = torch.aminmax(x.flatten(1), dim=1) if self.qargs.per_channel else torch.aminmax(x)
        low, high = _of_all_processes(low, high)
        if self.observed:
            low = self.min_val + AVERAGING_CONSTANT * (low - self.min_val)
            high = self.max_val + AVERAGING_CONSTANT * (high - self.max_val)
        self.set_range(low, high)

    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Place the grid over a range, float32 of the buffers' shape."""
        self.observed = True
        self.min_val.copy_(low)
        self.max_val.copy_(high)
        scale, zero_point = calculate_qparams(self.min_val, self.max_val, self.qargs)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)

    def select(self, channels: Tensor) -> None:
        """Go on with some channels, given by their indices; a range of the whole tensor stays as it is."""
        if self.qargs.per_channel:
            self.min_val, self.max_val = self.min_val[channels], self.max_val[channels]
            self.scale, self.zero_point = self.scale[channels], self.zero_point[channels]

    def quantize(self, x: Tensor) -> Tensor:
        """The integers that ``x`` is rounded to, int8 (symmetric) or uint8."""
        shape = (-1, *[1] * (x.dim() - 1)) if self.qargs.per_channel else ()
        # torch's fake_quantize multiplies by the inverse, too.
        integers = torch.round(x * (1 / self.scale).reshape(shape)) + self.zero_point.reshape(shape)
        dtype = torch.int8 if self.qargs.symmetric else torch.uint8
        return integers.clamp(self.qargs.quant_min, self.qargs.quant_max).to(dtype)

    def extra_repr(self) -> str:
        return f"{self.qargs}, observing={self.observer_enabled}, observed={self.observed}"


def _of_all_processes(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The range of what all processes of the run see in this step: that of one process with all their batches."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return low, high
    ends = torch.stack([-low, high])
    torch.distributed.all_reduce(ends, torch.distributed.ReduceOp.MAX)
    return -ends[0], ends[1]
