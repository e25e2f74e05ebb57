"""Allocation of a total sparsity to several weights: by outliers, or by measured errors."""

from collections.abc import Mapping, Sequence
from itertools import pairwise


def outlier_sparsities(
    outliers: Mapping[str, float], sizes: Mapping[str, int], sparsity: float, spread: float
) -> dict[str, float]:
    """Prune less where there are more outliers.

    OWL, Yin et al. 2023, arXiv:2310.05175: sparsities decrease linearly with the share of outliers, over a range of
    2 x ``spread``. The mean is weighted by size, unlike in OWL, so that the total sparsity is exact for any sizes.

    Args:
        outliers: the share of outliers in each member.
        sizes: the number of weights of each member.
        sparsity: of all members together, in [0, 1].
        spread: half of the largest difference between two sparsities.

    Returns:
        The sparsity of each member.

    Raises:
        ValueError: one of them would be outside of [0, 1].
    """
    low, high = min(outliers.values()), max(outliers.values())
    shifts = {name: 2 * spread * (share - low) / ((high - low) or 1.0) for name, share in outliers.items()}
    mean = sum(shifts[name] * sizes[name] for name in shifts) / sum(sizes[name] for name in shifts)
    sparsities = {name: sparsity - shift + mean for name, shift in shifts.items()}
    for name, value in sparsities.items():
        if not 0 <= value <= 1:
            raise ValueError(f"a spread of {spread:g} around {sparsity:g} gives {name} a sparsity of {value:.3f}")
    return sparsities


def cheapest_sparsities(
    curves: Mapping[str, Sequence[tuple[float, float]]], sizes: Mapping[str, int], sparsity: float
) -> dict[str, float]:
    """Choose the sparsities with the smallest sum of errors.

    Errors are interpolated linearly on the lower convex hull of each curve; for convex curves the greedy choice of the
    cheapest segment is optimal.

    Args:
        curves: points (sparsity, error) of each member, ascending in the sparsity. ``sparsity`` must lie between the
            totals of all first and of all last points.
        sizes: the number of weights of each member.
        sparsity: of all members together, in [0, 1].

    Returns:
        The sparsity of each member.
    """
    sparsities = {name: curve[0][0] for name, curve in curves.items()}
    left = sparsity * sum(sizes[name] for name in curves) - sum(sparsities[name] * sizes[name] for name in curves)
    steps = []
    for name, curve in curves.items():
        for (start, before), (end, after) in pairwise(_lower_hull(curve)):
            steps.append(((after - before) / ((end - start) * sizes[name]), start, end, name))
    for _, start, end, name in sorted(steps):
        share = min(max(left / ((end - start) * sizes[name]), 0.0), 1.0)
        sparsities[name] += share * (end - start)
        left -= share * (end - start) * sizes[name]
    return sparsities


def _lower_hull(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Lower convex hull of points that ascend in x (Andrew 1979)."""
    hull: list[tuple[float, float]] = []
    for x, y in points:
        while len(hull) > 1:
            (x0, y0), (x1, y1) = hull[-2:]
            if (y1 - y0) * (x - x1) < (y - y1) * (x1 - x0):
                break
            hull.pop()
        hull.append((x, y))
    return hull
