"""Where on its way is a quantity: from the progress of a window to a number?

Pure functions. Progress runs from 0.0 at the start of a modifier's window to 1.0 at its end; outside of the window the
caller decides.
"""

import math
from collections.abc import Callable

SPARSITY_CURVES: dict[str, Callable[[float], float]] = {
    "linear": lambda x: x,
    # Fast while many weights are redundant, slow where each one counts: Zhu & Gupta 2017, arXiv:1710.01878, eq. 1.
    "cubic": lambda x: 1 - (1 - x) ** 3,
    "inverse_cubic": lambda x: 1 - (1 - x) ** (1 / 3),
}


def progress(epoch: float, start: float, end: float) -> float:
    """Share of the window [start, end] that has passed at ``epoch``, in [0, 1]; all times in epochs."""
    return 1.0 if epoch >= end else max((epoch - start) / (end - start), 0.0)


def sparsity_at(x: float, init: float, final: float, curve: str) -> float:
    """Target sparsity at progress ``x``.

    Args:
        x: progress in [0, 1].
        init: sparsity at 0, in [0, 1].
        final: sparsity at 1, in [0, 1].
        curve: a key of ``SPARSITY_CURVES``.

    Returns:
        Fraction to prune, in [0, 1].
    """
    return init + (final - init) * SPARSITY_CURVES[curve](x)


def linear_lr(x: float, init: float, final: float) -> float:
    """Learning rate on the straight line from ``init`` to ``final``."""
    return init + (final - init) * x


def cosine_lr(x: float, init: float, final: float) -> float:
    """Learning rate on half a cosine from ``init`` to ``final`` (Loshchilov & Hutter 2017, arXiv:1608.03983, eq. 5)."""
    return final + (init - final) * (1 + math.cos(math.pi * x)) / 2


def decayed_lr(init: float, gamma: float, times: int) -> float:
    """Learning rate that has been multiplied by ``gamma``, from 0 to 10, so many times."""
    return init * gamma ** (min(times, 300) if gamma > 1 else times)  # 10**309 is no float


def restarted(epochs: float, cycle: float, growth: int) -> float:
    """Progress in [0, 1) of the cycle that an epoch falls into: each is ``growth`` times as long as the one before.

    Loshchilov & Hutter 2017, arXiv:1608.03983, section 3.

    Args:
        epochs: since the start of the first cycle, >= 0.
        cycle: length of the first one in epochs.
        growth: >= 1.
    """
    rounding = 1e-9  # of an epoch: 2.3 - 0.3 is a little below 2
    if growth == 1:
        return max(epochs / cycle - math.floor((epochs + rounding) / cycle), 0.0)
    while epochs + rounding >= cycle:
        epochs, cycle = max(epochs - cycle, 0.0), cycle * growth
    return epochs / cycle


def cyclic_linear_lr(step: int, steps_per_cycle: int, init: float, final: float) -> float:
    """Learning rate of a saw-tooth: down to ``final`` at the last step of a cycle, back to ``init`` at the next.

    Args:
        step: optimizer steps since the start of the first cycle.
        steps_per_cycle: length of a cycle in optimizer steps.
        init: learning rate at the first step of a cycle.
        final: learning rate at the last step of a cycle.
    """
    return init - (init - final) * ((step % steps_per_cycle) / max(steps_per_cycle - 1, 1))
