"""Curves of scheduled quantities, as pure functions.

Progress is 0.0 at the start of a modifier's active range and 1.0 at its end.
"""

import math
from collections.abc import Callable

SPARSITY_CURVES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    # Fast at first, while many weights are redundant, then slower: Zhu & Gupta 2017, arXiv:1710.01878, eq. 1.
    "cubic": lambda x: 1 - (1 - x) ** 3,
    "inverse_cubic": lambda x: 1 - (1 - x) ** (1 / 3),
}


def progress(epoch: float, start: float, end: float) -> float:
    """Compute the fraction of [start, end] that has passed at ``epoch``, in [0, 1]; all times in epochs."""
    return 1.0 if epoch >= end else max((epoch - start) / (end - start), 0.0)


def sparsity_at(x: float, init: float, final: float, curve: str) -> float:
    """Compute the target sparsity at progress ``x``.

    Args:
        x: progress in [0, 1].
        init: sparsity at 0, in [0, 1].
        final: sparsity at 1, in [0, 1].
        curve: a key of ``SPARSITY_CURVES``.

    Returns:
        Target sparsity, in [0, 1].
    """
    return init + (final - init) * SPARSITY_CURVES[curve](x)


def linear_lr(x: float, init: float, final: float) -> float:
    """Compute the learning rate at progress ``x`` on a line from ``init`` to ``final``."""
    return init + (final - init) * x


def cosine_lr(x: float, init: float, final: float) -> float:
    """Compute the learning rate at progress ``x`` on half a cosine from ``init`` to ``final``.

    Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5.
    """
    return final + (init - final) * (1 + math.cos(math.pi * x)) / 2


def decayed_lr(init: float, gamma: float, times: int) -> float:
    """Compute ``init`` multiplied ``times`` times by ``gamma``, which is in [0, 10]."""
    return init * gamma ** (min(times, 300) if gamma > 1 else times)  # 10**309 overflows


def restarted(epochs: float, cycle: float, growth: int) -> float:
    """Compute the progress in [0, 1) of the current cycle; each cycle is ``growth`` times as long as the previous one.

    Loshchilov & Hutter 2017, arXiv:1608.03983, section 3.

    Args:
        epochs: since the start of the first cycle, at least 0.
        cycle: length of the first cycle in epochs.
        growth: at least 1.
    """
    rounding = 1e-9  # epochs: 2.3 - 0.3 is slightly below 2 in floating point
    if growth == 1:
        return max(epochs / cycle - math.floor((epochs + rounding) / cycle), 0.0)
    while epochs + rounding >= cycle:
        epochs, cycle = max(epochs - cycle, 0.0), cycle * growth
    return epochs / cycle


def cyclic_linear_lr(step: float, steps_per_cycle: float, init: float, final: float) -> float:
    """Compute the learning rate of a sawtooth: linear to ``final`` at the last step of a cycle, then ``init`` again.

    Args:
        step: optimizer steps since the start of the first cycle.
        steps_per_cycle: length of a cycle in optimizer steps.
        init: learning rate at the first step of a cycle.
        final: learning rate at the last step of a cycle.
    """
    return init - (init - final) * ((step % steps_per_cycle) / max(steps_per_cycle - 1, 1))
