"""Allocation of a budget by dynamic programming: one option for each unit, with the smallest sum of losses.

The multiple-choice knapsack problem, with costs rounded up to whole steps of the budget: a solution never exceeds the
budget, and it is optimal up to one step for each unit. Frantar & Alistarh 2022, arXiv:2201.13096 (SPDY), prune by it.
"""

from collections.abc import Sequence

import numpy as np

STEPS = 10_000  # of a budget


def allocate(
    costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float, steps: int = STEPS
) -> list[int] | None:
    """Choose an option for each unit.

    Args:
        costs: of each option of each unit, of any sign.
        losses: likewise.
        budget: of all units together, in the unit of the costs.
        steps: into which the budget is divided that the cheapest options leave; the sum of losses is at most the
            smallest one for a budget that is smaller by one step for each unit.

    Returns:
        Index of the option of each unit; None if even the cheapest options exceed the budget.
    """
    least, above = _above_cheapest(costs)
    budget -= least
    if budget < 0:
        return None
    _, chosen = _tables(above, losses, budget, steps)
    left, picks = steps, []
    for unit in reversed(range(len(costs))):
        picks.append(int(chosen[unit][left]))
        left -= int(_in_steps(above[unit], budget, steps)[picks[-1]])
    return picks[::-1]


def frontier(
    costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], steps: int = STEPS
) -> list[tuple[float, float]]:
    """Compute the smallest loss for every budget.

    Returns:
        Points (budget, loss) where the loss falls, ascending in the budget.
    """
    least, above = _above_cheapest(costs)
    most = sum(map(max, above))
    best, _ = _tables(above, losses, most, steps)
    return lower_envelope([(float(least + most * index / steps), float(loss)) for index, loss in enumerate(best)])


def lower_envelope(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points (cost, loss) that no other one beats in both, ascending in the cost."""
    found: list[tuple[float, float]] = []
    for cost, loss in sorted(points):
        if not found or loss < found[-1][1]:
            found.append((cost, loss))
    return found


def _above_cheapest(costs: Sequence[Sequence[float]]) -> tuple[float, list[list[float]]]:
    """What the cheapest options cost together, which is always paid, and what each option costs more."""
    cheapest = [min(unit) for unit in costs]
    return sum(cheapest), [[cost - least for cost in unit] for unit, least in zip(costs, cheapest, strict=True)]


def _tables(
    costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float, steps: int
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The smallest loss for each number of steps, (steps + 1,), and for each unit the option that reaches it."""
    best, chosen = np.zeros(steps + 1), []
    for cost, loss in zip(costs, losses, strict=True):
        totals = np.full((len(cost), steps + 1), np.inf)
        for option, taken in enumerate(_in_steps(cost, budget, steps)):
            if taken <= steps:
                totals[option, taken:] = best[: steps + 1 - taken] + loss[option]
        chosen.append(totals.argmin(axis=0))
        best = totals.min(axis=0)
    return best, chosen


def _in_steps(costs: Sequence[float], budget: float, steps: int) -> np.ndarray:
    """Costs of at least 0 in steps, rounded up; more than all steps where nothing is left of the budget."""
    if budget <= 0:
        return np.array([0 if cost <= 0 else steps + 1 for cost in costs])
    # A cost that is a whole number of steps must not become one more by the rounding of the division.
    exact = np.minimum(np.array(costs) * steps / budget, steps + 1.0)
    return np.ceil(exact - 1e-9).astype(np.int64)
