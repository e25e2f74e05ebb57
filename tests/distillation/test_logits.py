"""The distillation loss on its own terms; tests/parity has it against SparseML."""

import pytest
import torch

from sparsification.logits import distillation_loss
from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import DistillationModifier, TrainingStep

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def loss_of(student: torch.Tensor, teacher: torch.Tensor, **fields) -> torch.Tensor:
    modifier = DistillationModifier(hardness=1.0, temperature=2.0, **fields)
    return modifier.loss_term(torch.zeros(()), {"logits": student}, {"logits": teacher}, MASK)


@pytest.mark.parametrize("temperature", [0.5, 5.5])
def test_without_padding_the_loss_is_that_of_each_question_by_itself(temperature):
    torch.manual_seed(0)
    student, teacher = 9 * torch.randn(2, 5), 9 * torch.randn(2, 5)
    alone = [distillation_loss(student[i, :n], teacher[i, :n], temperature) for i, n in enumerate(MASK.sum(dim=1))]
    recipe = (
        f"modifiers:\n  - !DistillationModifier {{hardness: 1.0, temperature: {temperature}, ignore_padding: True}}\n"
    )
    manager = ScheduledModifierManager.from_yaml(recipe)
    loss = manager.update_loss(torch.zeros(()), {"logits": student}, {"logits": teacher}, TrainingStep(0, 10), MASK)
    assert loss.item() == pytest.approx(sum(alone).item() / 2, rel=1e-5)


def test_without_padding_padded_positions_get_no_gradient():
    torch.manual_seed(0)
    student = torch.randn(2, 5, requires_grad=True)
    loss_of(student, torch.randn(2, 5), ignore_padding=True).backward()
    assert student.grad[MASK == 0].eq(0).all()
    assert student.grad[MASK == 1].ne(0).all()


def test_padding_counts_by_default_as_in_sparseml():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5), torch.randn(2, 5)
    assert loss_of(student, teacher) == distillation_loss(student, teacher, 2.0)


def test_one_distribution_at_each_token():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    real = [row[:n] for row, n in zip(student, MASK.sum(dim=1), strict=True)]
    target = [row[:n] for row, n in zip(teacher, MASK.sum(dim=1), strict=True)]
    expected = distillation_loss(torch.cat(real), torch.cat(target), 2.0)
    assert loss_of(student, teacher, ignore_padding=True).item() == pytest.approx(expected.item())


def test_logits_of_a_whole_text_have_no_padding():
    student, teacher = torch.randn(2, 3), torch.randn(2, 3)
    assert loss_of(student, teacher, ignore_padding=True) == loss_of(student, teacher)


def test_a_single_logit_is_compared_by_its_squared_difference():
    student, teacher = torch.randn(4, 1), torch.randn(4, 1)
    modifier = DistillationModifier(hardness=0.5)
    term = modifier.loss_term(torch.zeros(()), {"logits": student}, {"logits": teacher})
    assert term.item() == pytest.approx(0.5 * (student - teacher).square().mean().item())
    assert "teacher_agreement" not in modifier.metrics(TrainingStep(0, 1))
