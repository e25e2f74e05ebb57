"""Weights in int8 as the project's exports have them, with a symmetric scale for each output."""

from torch import Tensor

TINY = 1e-12  # the smallest weight that a scale is taken from


def round_weight(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Round a weight to integers.

    Args:
        weight: [outputs, inputs].
        bits: of the integers; 8 or, on CPUs without VNNI, 7.

    Returns:
        The integers in the weight's type, [outputs, inputs], and the scales, [outputs, 1].
    """
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=TINY) / (2 ** (bits - 1) - 1)
    return (weight / scale).round(), scale
