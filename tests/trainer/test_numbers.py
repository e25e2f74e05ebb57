"""What does a run do about numbers that cannot be right, and about 16 bits, which make some?"""

import math

import pytest
import torch
from accelerate.optimizer import patch_optimizer_step
from transformers import TrainerCallback

from helpers.recipes import DISTILL, LEARNING_RATE, PRUNE, QUANTIZE
from helpers.resuming import assert_resumes_exactly
from helpers.trainers import make_data, make_trainer
from sparsification.tasks.question_answering.pipeline import warn_of_weak_teacher
from sparsification.trainer.mixin import FP16_PATIENCE, LossError


def spoil_losses(trainer, steps: range, value: float = math.nan) -> None:
    """Let the losses of some steps be no numbers."""
    compute = trainer.compute_loss
    trainer.compute_loss = lambda *args, **kwargs: (
        compute(*args, **kwargs) * (value if trainer.state.global_step in steps else 1.0)
    )


@pytest.mark.parametrize("recipe", [None, PRUNE])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("shown", [True, False], ids=["filtered", "unfiltered"])
def test_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path, recipe, value, shown):
    trainer = make_trainer(tmp_path, recipe, logging_nan_inf_filter=shown)
    spoil_losses(trainer, range(5, 6), value)
    place = r"(5 \(epoch 0\.625|6 \(epoch 0\.75)\): "
    with pytest.raises(LossError, match=rf"the loss is {value} at step {place}the next step would spoil the weights"):
        trainer.train()


def test_fp16_passes_over_some_lost_losses_but_not_over_all(tmp_path, monkeypatch):
    for count, stops in ((FP16_PATIENCE - 1, False), (FP16_PATIENCE, True)):
        trainer = make_trainer(tmp_path, PRUNE)
        monkeypatch.setattr(trainer.args, "fp16", True)
        for _ in range(count - 1):
            trainer._check_loss(torch.tensor(math.inf))
        if stops:
            with pytest.raises(LossError):
                trainer._check_loss(torch.tensor(math.inf))
        else:
            trainer._check_loss(torch.tensor(math.inf))


def test_mask_that_leaves_nothing_is_told_once_with_modifier_and_weight(tmp_path, caplog):
    trainer = make_trainer(
        tmp_path, PRUNE.replace("final_sparsity: 0.8", "final_sparsity: 1.0") + "    leave_enabled: True\n"
    )
    trainer.train()
    (line,) = [record.message for record in caplog.records if "prunes all weights" in record.message]
    assert "GMPruningModifier: the mask prunes all weights of bert.encoder.layer.0" in line and "and 17 more" in line


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ({"eval_f1": 90.22}, {"eval_teacher_f1": 90.03}),  # the quickstart's
        ({"eval_f1": 89.8}, {"eval_teacher_f1": 88.1}),
        ({"eval_f1": 35.0}, {"eval_teacher_f1": 25.0}),
        ({"eval_f1": 5.0}, {"eval_teacher_f1": 88.0}),
        ({"eval_f1": 80.0, "eval_HasAns_f1": 78.0}, {"eval_teacher_f1": 50.0, "eval_teacher_HasAns_f1": 60.0}),
        ({}, {}),  # no question came with its answer
    ],
)
def test_teacher_that_knows_its_task_is_not_doubted_also_below_its_student(student, teacher, caplog):
    warn_of_weak_teacher(student, teacher)
    assert not caplog.records


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        ({"eval_f1": 89.8}, {"eval_teacher_f1": 43.6}, "F1 is 43.60, that of its student 89.80"),
        ({"eval_f1": 88.0}, {"eval_teacher_f1": 7.3}, "F1 is 7.30, that of its student 88.00"),
        ({"eval_f1": 3.0}, {"eval_teacher_f1": 4.1}, "F1 is 4.10, hardly more than guessing gives"),
        (
            {"eval_f1": 76.0, "eval_HasAns_f1": 74.0},
            {"eval_teacher_f1": 50.07, "eval_teacher_HasAns_f1": 0.4},
            "F1 on questions with an answer is 0.40, that of its student 74.00",
        ),
    ],
)
def test_teacher_that_knows_nothing_is_told(student, teacher, words, caplog):
    warn_of_weak_teacher(student, teacher)
    assert f"The teacher's {words}: is it trained for this task, and is it the one that --distill" in caplog.text


def test_teacher_s_evaluation_asks_the_teacher(tmp_path):
    trainer = make_trainer(tmp_path, DISTILL, eval_dataset=make_data(8))
    teacher = make_trainer(tmp_path, None, eval_dataset=make_data(8))
    teacher.model.load_state_dict(trainer.teacher.state_dict())
    assert trainer.evaluate_teacher()["eval_teacher_loss"] == teacher.evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] != teacher.evaluate()["eval_loss"]


class _Overflow(TrainerCallback):
    """Trains with a loss scaler, as fp16 does, and lets the gradients of some steps overflow."""

    def __init__(self, trainer, steps: tuple[int, ...]):
        self.trainer, self.steps, self.skipped = trainer, steps, []

    def on_train_begin(self, args, state, control, **kwargs):
        optimizer = self.trainer.optimizer
        optimizer.scaler = self.trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
        optimizer._optimizer_original_step_method = optimizer.optimizer.step
        optimizer._optimizer_patched_step_method = patch_optimizer_step(optimizer, optimizer.optimizer.step)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step in self.steps:
            self.trainer.model.qa_outputs.weight.grad[0, 0] = math.inf

    def on_optimizer_step(self, args, state, control, **kwargs):
        if self.trainer.accelerator.optimizer_step_was_skipped:
            self.skipped.append(state.global_step)


def test_step_that_a_scaler_skips_moves_nothing_and_the_masks_hold(tmp_path):
    settings = {"max_grad_norm": 0.0, "optim": "adamw_torch"}  # fused AdamW skips inside, and Trainer sees nothing
    trainer = make_trainer(tmp_path, PRUNE + LEARNING_RATE, **settings)
    (pruning,) = [modifier for modifier in trainer.manager.modifiers if modifier.pruned_names()]
    overflow = _Overflow(trainer, (6, 11, 16))
    trainer.add_callback(overflow)
    seen = []
    step = trainer.training_step

    def watch(*args, **kwargs):
        for name, weight in pruning.masked.weights.items():
            assert (weight[~pruning.masked.mask(name)] == 0).all()
        seen.append(pruning.masked.sparsity())
        return step(*args, **kwargs)

    trainer.training_step = watch
    trainer.train()
    assert overflow.skipped == [6, 11, 16]
    steady = make_trainer(tmp_path, PRUNE + LEARNING_RATE, **settings)
    steady.train()
    (other,) = [modifier for modifier in steady.manager.modifiers if modifier.pruned_names()]
    assert pruning.masked.sparsity() == other.masked.sparsity()
    assert seen == sorted(seen)
    rows = [[row for row in run.state.log_history if "loss" in row] for run in (trainer, steady)]
    key = "GMPruningModifier/target_sparsity"
    assert [row[key] for row in rows[0]] == [row[key] for row in rows[1]]


def test_bf16_trains_prunes_quantizes_distills_and_resumes_exactly(tmp_path):
    recipe = PRUNE + QUANTIZE + DISTILL
    trainer = make_trainer(tmp_path / "run", recipe, bf16=True)
    trainer.train()
    (pruning,) = [modifier for modifier in trainer.manager.modifiers if modifier.pruned_names()]
    assert pruning.masked.sparsity() == pytest.approx(0.8, abs=0.005)
    for name, weight in trainer.model.named_parameters():
        assert weight.dtype == torch.float32 and weight.isfinite().all(), name
    assert_resumes_exactly(tmp_path, recipe, {"bf16": True}, 0.6, 1)
