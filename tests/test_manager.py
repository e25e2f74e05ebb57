"""Modifiers of the user's own: the manager and the trainer call their hooks, whatever their class."""

from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from transformers import Trainer

from helpers.plain_and_empty import without_dropout
from helpers.trainers import SparseTrainer, arguments, make_data, make_model
from sparsification.arguments import load_manager
from sparsification.base import Modifier, TrainingStep
from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import MODIFIERS


@dataclass(kw_only=True)
class LogitPenaltyModifier(Modifier):
    """Adds ``weight`` · the mean square of the student's logits to the loss; no teacher is needed."""

    weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.calls = 0

    def loss_term(
        self,
        task_loss: Tensor,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        self.calls += 1
        return self.weight * student["start_logits"].square().mean()


@dataclass(kw_only=True)
class MeanSquareModifier(Modifier):
    """Half of the loss is the mean squared difference of the logits of student and teacher."""

    @property
    def needs_teacher(self) -> bool:
        return True

    @property
    def task_share(self) -> float:
        return 0.5

    def attach_teacher(self, teacher: nn.Module) -> None:
        self.teacher = teacher

    def loss_term(
        self,
        task_loss: Tensor,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        return 0.5 * nn.functional.mse_loss(student["start_logits"], teacher["start_logits"])


@dataclass(kw_only=True)
class WarmupModifier(Modifier):
    """Learning rate that grows by ``step`` a step; the windows of the others do not matter to it."""

    step: float = 0.1
    sets_learning_rate = True

    def lr_at(self, now: TrainingStep, group: int = 0) -> float | None:
        return self.step * now.step if group == 0 else None


OWN = MODIFIERS | {kind.__name__: kind for kind in (LogitPenaltyModifier, MeanSquareModifier, WarmupModifier)}
PENALTY = "modifiers:\n  - !LogitPenaltyModifier {weight: 3.0, start_epoch: 1.0, end_epoch: 2.0}\n"
TEACHER = "modifiers:\n  - !MeanSquareModifier\n"


def logits() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 4, 5, generator=generator)
    return {"start_logits": student}, {"start_logits": teacher}


def test_loss_of_a_users_own_modifier_is_added_in_its_window_alone():
    manager = ScheduledModifierManager.from_yaml(PENALTY, modifiers=OWN)
    student, _ = logits()
    loss = torch.tensor(2.0)
    expected = 2.0 + 3.0 * student["start_logits"].square().mean().item()
    found = [manager.update_loss(loss, student, None, TrainingStep(step, 10)).item() for step in (9, 10, 19, 20)]
    assert found == [2.0, pytest.approx(expected), pytest.approx(expected), 2.0]
    assert [manager.changes_loss_at(TrainingStep(step, 10)) for step in (9, 10, 19, 20)] == [False, True, True, False]
    assert not manager.distills and not manager.distills_at(TrainingStep(10, 10))


def test_users_own_distillation_is_given_the_teacher():
    manager = ScheduledModifierManager.from_yaml(TEACHER, modifiers=OWN)
    student, teacher = logits()
    assert manager.distills and manager.distills_at(TrainingStep(0, 10)) and manager.cached_layers == {}
    loss = manager.update_loss(torch.tensor(2.0), student, teacher, TrainingStep(0, 10))
    difference = (student["start_logits"] - teacher["start_logits"]).square().mean()
    assert loss.item() == pytest.approx(1.0 + 0.5 * difference.item())
    model = nn.Linear(2, 2)
    manager.attach_teacher(model)
    assert manager.modifiers[0].teacher is model


def test_without_a_teacher_what_needs_one_leaves_the_loss_as_it_is():
    manager = ScheduledModifierManager.from_yaml(TEACHER + PENALTY.partition("\n")[2], modifiers=OWN)
    student, _ = logits()
    assert not manager.changes_loss_at(TrainingStep(0, 10), has_teacher=False)
    assert manager.changes_loss_at(TrainingStep(10, 10), has_teacher=False)
    assert manager.update_loss(torch.tensor(2.0), student, None, TrainingStep(0, 10)).item() == 2.0
    expected = 2.0 + 3.0 * student["start_logits"].square().mean().item()
    assert manager.update_loss(torch.tensor(2.0), student, None, TrainingStep(10, 10)).item() == pytest.approx(expected)


def test_users_own_learning_rate_holds_for_the_groups_that_it_names():
    manager = ScheduledModifierManager.from_yaml("modifiers:\n  - !WarmupModifier {step: 0.5}\n", modifiers=OWN)
    assert manager.sets_learning_rate
    assert manager.learning_rate(TrainingStep(3, 10), 0, base=7.0) == 1.5
    assert manager.learning_rate(TrainingStep(3, 10), 1, base=7.0) == 7.0


def test_load_manager_reads_a_recipe_with_the_users_own_modifiers(tmp_path):
    (tmp_path / "recipe.yaml").write_text(PENALTY, encoding="utf-8")
    manager = load_manager(str(tmp_path / "recipe.yaml"), None, one_shot=False, modifiers=OWN)
    assert manager.modifiers == [LogitPenaltyModifier(weight=3.0, start_epoch=1.0, end_epoch=2.0)]


class PenaltyTrainer(Trainer):
    """The penalty of the second epoch, by hand."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if self.state.global_step // (self.state.max_steps // 3) == 1:
            loss = loss + 3.0 * outputs.start_logits.square().mean()
        return (loss, outputs) if return_outputs else loss


@pytest.mark.parametrize("accumulation", [1, 2])
def test_trainer_adds_a_users_own_loss_without_a_teacher(tmp_path, accumulation):
    args = arguments(tmp_path, gradient_accumulation_steps=accumulation)
    manager = ScheduledModifierManager.from_yaml(PENALTY, modifiers=OWN)
    weights = []
    for kind, more in ((SparseTrainer, {"manager": manager}), (PenaltyTrainer, {}), (Trainer, {})):
        trainer = kind(model=make_model(), args=args, train_dataset=make_data(), **more)
        trainer.train()
        weights.append(trainer.model.qa_outputs.weight)
    assert manager.modifiers[0].calls == len(trainer.get_train_dataloader())
    torch.testing.assert_close(weights[0], weights[1])
    assert not torch.allclose(weights[0], weights[2])


def test_trainer_gives_a_users_own_distillation_the_teachers_outputs(tmp_path):
    manager = ScheduledModifierManager.from_yaml(TEACHER, modifiers=OWN)
    teacher, batch = make_model(seed=9), make_data(4)
    args = arguments(tmp_path, max_steps=1)
    trainer = SparseTrainer(model=make_model(), args=args, train_dataset=batch, manager=manager, teacher=teacher)
    inputs = trainer.data_collator(batch)
    with torch.no_grad():
        student, taught = without_dropout(trainer.model)(**inputs), trainer.teacher(**inputs)
    trainer.train()
    expected = 0.5 * student.loss + 0.5 * nn.functional.mse_loss(student.start_logits, taught.start_logits)
    assert trainer.state.log_history[0]["loss"] == pytest.approx(expected.item(), rel=1e-5)
