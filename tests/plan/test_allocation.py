"""The dynamic program finds what trying all combinations finds."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsification.plan.allocation import allocate, frontier

LOSSES = st.floats(0, 10, allow_subnormal=False)
COSTS = st.integers(-3, 12)  # of an option that is faster than what the rest of a model was measured with: below 0


def units(costs: st.SearchStrategy) -> st.SearchStrategy:
    """Costs and losses of up to four options for each of up to four units."""
    options = st.lists(st.tuples(costs, LOSSES), min_size=1, max_size=4)
    return st.lists(options, min_size=1, max_size=4).map(
        lambda found: ([[cost for cost, _ in one] for one in found], [[loss for _, loss in one] for one in found])
    )


def smallest_loss(costs, losses, budget) -> float | None:
    sums = [
        sum(loss[pick] for loss, pick in zip(losses, picks, strict=True))
        for picks in itertools.product(*(range(len(cost)) for cost in costs))
        if sum(cost[pick] for cost, pick in zip(costs, picks, strict=True)) <= budget
    ]
    return min(sums, default=None)


def total(values, picks) -> float:
    return sum(value[pick] for value, pick in zip(values, picks, strict=True))


@given(units(COSTS), st.integers(-40, 40))
def test_whole_costs_give_the_optimum_of_all_combinations(case, budget):
    costs, losses = case
    expected = smallest_loss(costs, losses, budget)
    steps = max(budget - sum(map(min, costs)), 1)
    if expected is None:
        assert allocate(costs, losses, budget, steps) is None
        return
    picks = allocate(costs, losses, budget, steps)
    assert total(costs, picks) <= budget
    assert total(losses, picks) == pytest.approx(expected)


@given(units(st.floats(-1, 5)), st.floats(0.1, 15))
def test_any_costs_give_the_optimum_up_to_one_step_for_each_unit(case, budget):
    costs, losses = case
    steps = 100
    left = budget - sum(map(min, costs))
    expected = smallest_loss(costs, losses, budget - left * len(costs) / steps) if left > 0 else None
    if expected is not None:
        picks = allocate(costs, losses, budget, steps)
        assert total(costs, picks) <= budget + 1e-9
        assert total(losses, picks) <= expected + 1e-9


@given(units(COSTS))
def test_frontier_is_the_optimum_of_every_budget(case):
    costs, losses = case
    least, most = (sum(map(end, costs)) for end in (min, max))
    points = frontier(costs, losses, steps=max(most - least, 1))
    for budget in range(least, most + 1):
        reached = [loss for cost, loss in points if cost <= budget + 1e-9]
        expected = smallest_loss(costs, losses, budget)
        assert (min(reached) if reached else None) == (None if expected is None else pytest.approx(expected))
    assert [loss for _, loss in points] == sorted((loss for _, loss in points), reverse=True)


def test_budget_of_nothing_takes_what_costs_nothing():
    assert allocate([[3.0, 0.0], [0.0]], [[0.0, 1.0], [0.5]], 0.0) == [1, 0]
