"""The shape with the smallest loss within a target, against all shapes."""

import pytest

from helpers.shapes import ENCODER, cost_of, make_costs, make_losses
from sparsification.plan.planner import BYTES, MILLISECONDS, Target
from sparsification.plan.shape.encoder import Shape
from sparsification.plan.shape.planner import make_plan
from sparsification.plan.units import PlanError


def plan_for(limit: float, kind: str = MILLISECONDS):
    return make_plan(make_costs(), make_losses(), Target("--latency_ms", kind, limit))


@pytest.mark.parametrize("limit", [4.5, 6.0, 7.0, 8.0, 9.0, 11.0])
def test_plan_is_the_best_of_all_shapes(limit):
    plan, losses = plan_for(limit), make_losses()
    shapes = [Shape(dropped, width) for dropped in losses.drops for width in ENCODER.widths()]
    within = [shape for shape in shapes if cost_of(shape).milliseconds <= limit + 1e-9]
    assert plan.loss == min(map(losses.of, within))
    assert plan.total(MILLISECONDS) == pytest.approx(cost_of(plan.shape).milliseconds)
    assert plan.total(BYTES) == pytest.approx(cost_of(plan.shape).bytes)


def test_layer_that_changes_little_goes_before_neurons():
    assert plan_for(11.0).shape == Shape((2,), 80)
    assert plan_for(9.0).shape.dropped == (2,) and plan_for(9.0).shape.width < 80


def test_size_can_be_the_target():
    assert plan_for(8.0, MILLISECONDS).shape == plan_for(8.0e6, BYTES).shape


def test_curve_falls():
    (curve,) = plan_for(6.0).curves.values()
    costs, losses = zip(*curve, strict=True)
    assert list(costs) == sorted(costs) and list(losses) == sorted(losses, reverse=True) and losses[-1] == 0


def test_impossible_target_is_told_with_the_least():
    with pytest.raises(
        PlanError, match=r"is 3 ms, which no shape meets: the least is 4.4 ms \(dense 49.6 ms\) with half"
    ):
        plan_for(3.0)


def test_target_that_the_whole_model_meets_needs_no_plan():
    with pytest.raises(PlanError, match="the whole model in int8 has 12.4 ms: nothing is to be removed"):
        plan_for(13.0)
