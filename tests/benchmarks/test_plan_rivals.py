"""Rivals of planned models are as fast by the same costs, in one shot and in training."""

import pytest

from benchmarks.plan_rivals import KINDS, PLANNED, SMALLER, Measured, recipe_for, uniform_sparsity
from helpers import plans, shapes
from helpers.plans import UNITS, make_costs
from sparsification.manager import ScheduledModifierManager
from sparsification.plan.units import BLOCKS, MASK_TYPES

NAMES = [f"encoder.{index}" for index in range(len(shapes.ENCODER.layers))]


def test_uniform_sparsity_takes_the_time_that_is_asked_for():
    # 1 ms and two layers of 4 ms x (1 - sparsity)
    assert uniform_sparsity(make_costs(), UNITS, BLOCKS, 3.0) == pytest.approx(0.75)
    assert uniform_sparsity(make_costs(), UNITS, BLOCKS, 2.2) == pytest.approx(0.85)


@pytest.mark.parametrize("epochs", [0.0, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_recipe_of_each_kind_loads(kind, epochs):
    found = Measured(UNITS, NAMES, plans.make_costs(), plans.make_losses(), shapes.make_costs(), shapes.make_losses())
    manager = ScheduledModifierManager.from_yaml(recipe_for(found, kind, speedup=4.0, epochs=epochs))
    assert manager.quantizes and manager.distills == (epochs > 0)
    pruning = [modifier for modifier in manager.modifiers if "final_sparsity" in vars(modifier)]
    if kind in MASK_TYPES:
        (modifier,) = pruning
        # 22 ms / 4 = 5.5 ms: 1 ms and two layers of 4 ms x (1 - sparsity), without a pattern of 4.8 ms
        expected = 1 - 4.5 / (8.0 if kind == BLOCKS else 9.6)
        assert modifier.mask_type == MASK_TYPES[kind]
        assert modifier.final_sparsities == [pytest.approx(max(expected, 0.5), abs=1e-3)]
    else:
        assert kind in (PLANNED, SMALLER) and pruning
