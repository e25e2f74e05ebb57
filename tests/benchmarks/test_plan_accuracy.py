"""The study of planned models: rivals are as fast by the same costs, and the page compares what both lose."""

import pytest

from benchmarks import plan_accuracy
from helpers.plans import UNITS, make_costs
from sparsification.manager import ScheduledModifierManager
from sparsification.plan.units import BLOCKS, MASK_TYPES
from sparsification.pruning.reconstruction_modifier import ReconstructionPruningModifier


def test_uniform_sparsity_takes_the_time_that_is_asked_for():
    # 1 ms and two layers of 4 ms x (1 - sparsity)
    assert plan_accuracy.uniform_sparsity(make_costs(), UNITS, BLOCKS, 3.0) == pytest.approx(0.75)
    assert plan_accuracy.uniform_sparsity(make_costs(), UNITS, BLOCKS, 2.2) == pytest.approx(0.85)


@pytest.mark.parametrize("pattern", MASK_TYPES)
def test_recipe_of_a_uniform_model_loads(pattern):
    text = plan_accuracy.UNIFORM.format(sparsity=0.8123, mask_type=MASK_TYPES[pattern])
    modifiers = ScheduledModifierManager.from_yaml(text).modifiers
    (pruning,) = (each for each in modifiers if isinstance(each, ReconstructionPruningModifier))
    assert (pruning.final_sparsity, pruning.mask_type) == (0.8123, MASK_TYPES[pattern])


def test_each_planned_run_has_its_rivals_of_each_seed():
    runs = [run for name, run in plan_accuracy.RUNS.items() if name != "dense"]
    assert {(run.speedup, run.kind, run.seed) for run in runs} == {
        (speedup, kind, seed)
        for speedup in plan_accuracy.SPEEDUPS
        for kind in (plan_accuracy.PLANNED, plan_accuracy.SMALLER, *MASK_TYPES)
        for seed in plan_accuracy.SEEDS
    }


def test_page_compares_what_is_lost():
    def run(kind: str, mrr: float, speedup: int = 5) -> dict:
        figures = {"kind": kind, "speedup": speedup, "mrr": mrr, "sparsity": [0.8, 0.8], "measured_speedup": 4.9}
        figures |= {"cosine": mrr + 0.1}
        return figures | {"date": "2026-11-28", "machine": "a CPU"}

    results = {"dense": run("", 0.81, 0), "planned": run("planned", 0.79), "again": run("planned", 0.77)}
    text = plan_accuracy.page(results | {"blocks": run(BLOCKS, 0.75)})
    assert "| 5x | planned | 80.0% | 4.90x; 4.90x | 0.890; 0.870 | 1.00 | 79.0%; 77.0% | 1.00 |" in text
    assert "| 5x | uniform, 1x4 | 80.0% | 4.90x | 0.850 | 0.80 | 75.0% | 0.50 |" in text
