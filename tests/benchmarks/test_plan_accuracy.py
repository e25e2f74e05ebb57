"""The studies of planned models: all rivals of each seed, and pages that compare what they lose."""

import re

import pytest

from benchmarks import plan_accuracy, plan_distilled
from benchmarks.plan_rivals import KINDS, SEEDS, SPEEDUPS
from sparsification.plan.units import BLOCKS


@pytest.mark.parametrize("study", [plan_accuracy, plan_distilled])
def test_each_planned_run_has_its_rivals_of_each_seed(study):
    runs = [run for run in study.RUNS.values() if run.speedup]
    assert {(run.speedup, run.kind, run.seed) for run in runs} == {
        (speedup, kind, seed) for speedup in SPEEDUPS for kind in KINDS for seed in SEEDS
    }
    assert len({run.recipe for run in runs}) == len(KINDS) * len(SPEEDUPS)


def test_page_compares_what_is_lost():
    def run(kind: str, mrr: float, speedup: int = 5) -> dict:
        figures = {"kind": kind, "speedup": speedup, "mrr": mrr, "sparsity": [0.8, 0.8], "measured_speedup": 4.9}
        figures |= {"cosine": mrr + 0.1, "seed": 42}
        return figures | {"date": "2026-11-28", "machine": "a CPU"}

    results = {"dense": run("", 0.81, 0), "planned": run("planned", 0.79), "again": run("planned", 0.77)}
    text = plan_accuracy.page(results | {"blocks": run(BLOCKS, 0.75)})
    assert "| 5x | planned | 42; 42 | 2 | 80.0% | 4.90x; 4.90x | 0.890; 0.870 | 1.00 | 79.0%; 77.0% | 1.00 |" in text
    assert "| 5x | uniform, 1x4 | 42 | 2 | 80.0% | 4.90x | 0.850 | 0.80 | 75.0% | 0.50 |" in text


def distilled(kind: str, lost: list[int], f1: float = 65.0, machine: str = "a CPU") -> dict:
    figures = {"kind": kind, "speedup": 5, "seed": 42, "f1": f1, "teacher_f1": 70.0, "sparsity": [0.8]}
    figures |= {"measured_speedup": 5.1, "lost_by_questions": lost}
    return figures | {"date": "2026-11-29", "machine": machine}


def test_page_of_distilled_models_compares_with_the_teacher():
    text = plan_distilled.page(
        {"planned": distilled("planned", [4] * 9, 66.0), "smaller": distilled("smaller", [5] * 9)}
    )
    assert "| 5x | planned | 42 | 1 | 80.0% | 5.10x | 66.0 | 1.00 |" in text
    assert "| 5x | smaller, dense | 42 | 1 | 80.0% | 5.10x | 65.0 | 0.80 (0.80 to 0.80) |" in text


def test_models_are_compared_with_the_one_that_was_planned_for_their_machine():
    runs = [distilled("planned", [4] * 9), distilled("smaller", [5] * 9)]
    runs += [distilled(run["kind"], [lost] * 9, machine="another") for run, lost in zip(runs, (1, 2), strict=True)]
    text = plan_distilled.page(dict(enumerate([*runs, distilled("smaller", [9], machine="a third")])))
    assert re.findall(r"(?<=smaller, dense).* (\S+) \(", text) == ["0.80", "0.50"]
    assert text.index("a CPU:") < text.index("0.80 (") < text.index("another:") < text.index("0.50 (")
    assert "a third" not in text


def test_interval_of_a_ratio_widens_with_the_spread_over_the_questions():
    text = plan_distilled.page(
        {"planned": distilled("planned", [2, 6] * 50), "smaller": distilled("smaller", [6, 4] * 50)}
    )
    low, high = map(float, re.search(r"0\.80 \((\S+) to (\S+)\)", text).groups())
    assert 0.6 < low < 0.75 and 0.85 < high < 1.0
