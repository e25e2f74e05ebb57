"""Series that a run logs."""

import pytest

from helpers.recipes import DISTILL, LEARNING_RATE, PRUNE
from helpers.trainers import make_trainer


def test_loss_and_its_parts_are_logged_apart(tmp_path):
    trainer = make_trainer(tmp_path, DISTILL)
    trainer.train()
    for entry in (entry for entry in trainer.state.log_history if "loss" in entry):
        task, distilled, total = (
            entry[f"DistillationModifier/{key}"] for key in ("task_loss", "distillation_loss", "total_loss")
        )
        assert total == pytest.approx(0.3 * task + 0.7 * distilled, rel=1e-5)
        assert entry["loss"] == pytest.approx(total, rel=1e-5)


def test_dashboards_get_few_series_and_all_zeros(tmp_path):
    trainer = make_trainer(tmp_path, PRUNE + LEARNING_RATE)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert entries[0]["GMPruningModifier/sparsity"] == entries[0]["GMPruningModifier/target_sparsity"] == 0.0
    assert entries[-1]["GMPruningModifier/target_sparsity"] == 0.8
    assert entries[-1]["GMPruningModifier/sparsity"] == pytest.approx(0.8, abs=0.005)
    for entry in entries[5:]:
        assert entry["LearningRateFunctionModifier/ParamGroup0"] == entry["learning_rate"]
    assert len(entries[-1]) <= 20
    asked = make_trainer(tmp_path, PRUNE + "    log_types: __ALL__\n")
    asked.train()
    names = [name for name in asked.state.log_history[10] if name.startswith("ParamPruning/")]
    assert len(names) == 3 * 6
