"""Plans meet their targets, and bad targets are told with what is possible."""

from dataclasses import replace

import pytest

from helpers.plans import LAYERS, OF_LAYER, SHAPE, UNITS, make_costs, make_losses
from sparsification.plan.costs import Cost, Costs
from sparsification.plan.drops import NONE
from sparsification.plan.planner import BYTES, MILLISECONDS, Target, make_plan
from sparsification.plan.units import BLOCKS, DENSE, UNSTRUCTURED, Option, PlanError


def plan_for(limit: float, precisions=("fp32", "int8"), kind=MILLISECONDS, flag="--latency_ms"):
    return make_plan(UNITS, make_costs(), make_losses(), Target(flag, kind, limit), precisions)


def test_plan_meets_its_target_and_takes_from_the_layer_that_loses_less():
    plan = plan_for(5.0, ["int8"])
    assert plan.total(MILLISECONDS) <= 5.0
    loses_more, loses_less = plan.choices
    assert loses_more.option.sparsity < loses_less.option.sparsity
    assert plan.loss == pytest.approx(loses_more.loss + loses_less.loss)


def test_number_format_that_loses_less_is_taken():
    slow = plan_for(16.0)
    assert slow.precision == "int8" and not slow.is_sparse  # its rounding loses less than pruning in fp32
    assert plan_for(16.0, ["fp32"]).loss > slow.loss
    assert set(slow.curves) == {"fp32", "int8"}


def test_curve_falls_to_the_dense_model_and_the_plan_is_on_it():
    plan = plan_for(5.0, ["int8"])
    costs, losses = zip(*plan.curves["int8"], strict=True)
    assert list(costs) == sorted(costs) and list(losses) == sorted(losses, reverse=True)
    best = min(loss for cost, loss in plan.curves["int8"] if cost <= 5.0)
    assert plan.loss == pytest.approx(best, abs=0.02)


def test_size_is_a_target():
    plan = plan_for(4e6, kind=BYTES, flag="--size_mb 4")
    assert plan.total(BYTES) <= 4e6
    with pytest.raises(PlanError, match=r"--size_mb 1 is 1 MB, which no plan meets: the least is .* MB"):
        plan_for(1e6, kind=BYTES, flag="--size_mb 1")


def test_target_below_the_rest_of_the_model_is_told_with_the_best_that_is_possible():
    with pytest.raises(PlanError) as caught:
        plan_for(0.5)
    rest, tables = make_costs().of_units(UNITS, "int8", MILLISECONDS)
    least = rest + sum(min(table.values()) for table in tables)
    assert f"is 0.5 ms, which no plan meets: the least is {least:.3g} ms (dense 22 ms), of which 1 ms" in str(
        caught.value
    )


def test_target_that_the_dense_model_meets_is_refused():
    with pytest.raises(PlanError, match="the dense model has 22 ms and meets it: nothing is to be pruned"):
        plan_for(30.0)


def test_layer_goes_where_the_model_loses_less_without_it_than_by_more_zeros():
    drops = {(): 0.0, (0,): 0.2}
    target = Target("", MILLISECONDS, 1.5)
    sparse, shorter = (
        make_plan(UNITS, make_costs(), make_losses(), target, ["int8"], LAYERS, each) for each in (NONE, drops)
    )
    assert (sparse.dropped, shorter.dropped, shorter.kept) == ([], ["encoder.0"], ["encoder.1"])
    assert shorter.total(MILLISECONDS) <= 1.5 and [choice.unit for choice in shorter.choices] == UNITS[1:]
    assert shorter.loss == pytest.approx(0.2 + shorter.choices[0].loss) and shorter.loss < sparse.loss
    best = min(loss for cost, loss in shorter.curves["int8"] if cost <= 1.5)
    assert shorter.loss == pytest.approx(best, abs=0.02)
    kept = make_plan(UNITS, make_costs(), make_losses(), target, ["int8"], LAYERS, {(): 0.0, (0,): 9.0})
    assert kept.loss == sparse.loss


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("kind", [MILLISECONDS, BYTES])
def test_shorter_plan_costs_what_the_shorter_model_did(precision, kind):
    costs = make_costs()
    limit = getattr(costs.shorter[precision], kind) * 1.001
    plan = make_plan(UNITS, costs, make_losses(), Target("", kind, limit), [precision], LAYERS, {(1,): 0.0})
    (choice,) = plan.choices
    assert choice.option.sparsity == 0.95
    pattern = Option(precision, UNSTRUCTURED if precision == "fp32" else BLOCKS, 0.95)
    assert costs.of_layer(UNITS, LAYERS, precision, kind) == pytest.approx(getattr(OF_LAYER, kind))
    table = costs.of_units(UNITS, precision, kind)[1][0]
    assert plan.rest[kind] + table[pattern] == pytest.approx(getattr(costs.shorter[precision], kind))


def test_layers_stay_in_a_number_format_without_a_timed_shorter_model():
    costs = replace(make_costs(), shorter={})
    plan = make_plan(UNITS, costs, make_losses(), Target("", MILLISECONDS, 5.0), ["int8"], LAYERS, {(): 9.0, (0,): 0.0})
    assert not plan.dropped


def test_rest_and_choices_add_up_to_the_timed_models():
    costs = make_costs()
    for option, cost in costs.models.items():
        rest, tables = costs.of_units(UNITS, option.precision, MILLISECONDS)
        assert rest + sum(table[option] for table in tables) == pytest.approx(cost.milliseconds)
    assert Option("int8", DENSE) in costs.layers[SHAPE]


def test_plan_that_must_be_faster_than_the_dense_file_has_a_sparse_unit():
    costs = make_costs()
    slow = {Option("int8"): Cost(20.0, 20e6)}  # nothing is fused in a file without sparse layers
    costs = Costs(costs.layers, costs.models | slow, costs.mixed)
    plan = make_plan(UNITS, costs, make_losses(), Target("", MILLISECONDS, 9.0), ["int8"])
    assert [choice.option.pattern == DENSE for choice in plan.choices] == [True, False]
    plan = make_plan(UNITS, costs, make_losses(), Target("", MILLISECONDS, 21.0), ["int8"])
    assert not plan.is_sparse and plan.total(MILLISECONDS) == pytest.approx(20.0)
