"""Sparsities of single weights against exhaustive search and the formula of OWL's paper."""

import itertools

import pytest

from sparsification.pruning.allocation import cheapest_sparsities, outlier_sparsities

SIZES = {"a": 100, "b": 100, "c": 400}


def mean(sparsities: dict[str, float], sizes: dict[str, int]) -> float:
    return sum(sparsities[name] * sizes[name] for name in sizes) / sum(sizes.values())


def test_outliers_lower_a_sparsity_as_in_owl():
    """Members of one size: 1 - S_i = D_i - mean(D) + 1 - S, the D scaled to [0, 2 spread]."""
    outliers = {"a": 0.02, "b": 0.05, "c": 0.04}
    found = outlier_sparsities(outliers, dict.fromkeys(outliers, 7), 0.7, 0.08)
    scaled = {name: (share - 0.02) / 0.03 * 0.16 for name, share in outliers.items()}
    for name in outliers:
        assert found[name] == pytest.approx(0.7 + sum(scaled.values()) / 3 - scaled[name])


@pytest.mark.parametrize("outliers", [{"a": 0.0, "b": 0.5, "c": 0.1}, dict.fromkeys("abc", 0.3)])
def test_outlier_sparsities_have_the_mean_that_was_asked_for(outliers):
    found = outlier_sparsities(outliers, SIZES, 0.6, 0.1)
    assert mean(found, SIZES) == pytest.approx(0.6)
    assert max(found.values()) - min(found.values()) == pytest.approx(0.2 if outliers["b"] != outliers["a"] else 0.0)


def test_a_spread_that_leaves_the_unit_interval_is_refused():
    with pytest.raises(ValueError, match="a spread of 0.2 around 0.9 gives"):
        outlier_sparsities({"a": 0.0, "b": 1.0}, {"a": 1, "b": 1}, 0.9, 0.2)


def test_cheapest_sparsities_have_the_smallest_sum_of_errors():
    grid = [0.3, 0.4, 0.5, 0.6, 0.7]
    costs = {"a": 1.0, "b": 3.0, "c": 2.0}
    curves = {name: [(s, cost * s**3) for s in grid] for name, cost in costs.items()}
    found = cheapest_sparsities(curves, SIZES, 0.5)
    assert mean(found, SIZES) == pytest.approx(0.5)

    def error(name: str, sparsity: float) -> float:
        """Interpolated between the points of the grid."""
        start = min(int((sparsity - 0.3) * 10 + 1e-9), 3)
        (s0, e0), (s1, e1) = curves[name][start : start + 2]
        return e0 + (e1 - e0) * (sparsity - s0) / (s1 - s0)

    fine = [0.3 + 0.4 * index / 40 for index in range(41)]
    best = min(
        error("a", a) + error("b", b) + error("c", c)
        for a, b in itertools.product(fine, fine)
        if 0.3 <= (c := (0.5 * 600 - 100 * a - 100 * b) / 400) <= 0.7
    )
    assert sum(error(name, found[name]) for name in curves) == pytest.approx(best)


def test_a_bump_in_a_curve_is_bridged():
    curves = {"a": [(0.0, 0.0), (0.5, 9.0), (1.0, 1.0)], "b": [(0.0, 0.0), (1.0, 2.0)]}
    assert cheapest_sparsities(curves, {"a": 1, "b": 1}, 0.5) == {"a": 1.0, "b": 0.0}
