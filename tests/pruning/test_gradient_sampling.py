"""Gradients of the task loss, sampled for second-order pruning."""

import datasets
import pytest
import torch

from helpers.recipes import DISTILL, PRUNE
from helpers.trainers import SparseTrainer, arguments, make_data, make_model, make_trainer
from sparsification.distillation.teacher_cache import SAMPLE_INDEX
from sparsification.logits import distillation_loss
from sparsification.manager import ManagerError, ScheduledModifierManager

OBS = PRUNE.replace("GMPruning", "OBSPruning") + "    num_grads: 3\n"


def test_samples_are_the_task_losss_gradients_and_leave_the_training_step_alone(tmp_path):
    trainer = make_trainer(tmp_path, OBS)
    model, data = trainer.model.train(), make_data()
    parameters = list(trainer.manager.modifiers[0].masked.weights.values())
    for param in parameters:
        param.grad = torch.ones_like(param)
    random_state = torch.get_rng_state()
    samples = list(trainer._sample_gradients(parameters, 20, 2, (4, 1)))
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert all((param.grad == 1).all() for param in parameters)
    assert len(samples) == 20  # 40 features, of 32: the order begins anew
    model.eval()
    singles = [torch.autograd.grad(model(**{k: v[None] for k, v in row.items()}).loss, parameters) for row in data]
    mean = [sum(parts) / len(data) for parts in zip(*singles, strict=True)]
    sampled = [sum(parts) / 16 for parts in zip(*samples[:16], strict=True)]  # each of the 32 features once
    for ours, expected in zip(sampled, mean, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-6)


def test_samples_are_a_function_of_seed_and_moment(tmp_path):
    def first(trainer, moment):
        parameters = [trainer.model.qa_outputs.weight]
        return next(iter(trainer._sample_gradients(parameters, 1, 4, moment)))[0]

    one, again = make_trainer(tmp_path, OBS), make_trainer(tmp_path, OBS)
    assert torch.equal(first(one, (4, 1)), first(again, (4, 1)))
    assert not torch.equal(first(one, (4, 1)), first(one, (4, 2)))
    assert not torch.equal(first(one, (4, 1)), first(make_trainer(tmp_path, OBS, seed=4), (4, 1)))


def test_samples_are_taken_from_a_dataset_with_other_columns_and_a_cached_teacher(tmp_path):
    data = datasets.Dataset.from_list([{k: v.tolist() for k, v in row.items()} | {"id": "x"} for row in make_data()])
    distill = "  - !DistillationModifier\n    hardness: 1.0\n"
    trainer = SparseTrainer(
        model=make_model(),
        args=arguments(tmp_path),
        train_dataset=data.with_format("torch", output_all_columns=True),
        manager=ScheduledModifierManager.from_yaml(OBS + distill),
        teacher=make_model(seed=9),
        teacher_cache=tmp_path / "cache",
    )
    trainer.train()
    assert SAMPLE_INDEX in trainer.train_dataset.column_names
    assert trainer.manager.modifiers[0].masked.sparsity() == pytest.approx(0.8, abs=0.001)


def samples_of(trainer, labels: str, count: int = 3, size: int = 4) -> list[torch.Tensor]:
    parameters = [trainer.model.bert.encoder.layer[0].attention.self.query.weight]
    return [gradients[0] for gradients in trainer._sample_gradients(parameters, count, size, (4, 1), labels)]


def with_other_spans(trainer):
    for row in trainer.train_dataset:
        row["start_positions"] = (row["start_positions"] + 3) % 12
    return trainer


def test_labels_drawn_from_the_model_do_not_depend_on_those_of_the_data(tmp_path):
    for labels, same in (("data", False), ("model", True)):
        one = samples_of(make_trainer(tmp_path, OBS), labels)
        other = samples_of(with_other_spans(make_trainer(tmp_path, OBS)), labels)
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True)) == same


def test_labels_drawn_from_the_model_are_new_in_each_batch_and_with_each_seed(tmp_path):
    trainer = make_trainer(tmp_path, OBS)
    first, again = samples_of(trainer, "model", count=2, size=32)  # both of all 32 features
    assert not torch.allclose(first, again, rtol=1e-3)
    other = samples_of(make_trainer(tmp_path, OBS, seed=4), "model", count=1, size=32)[0]
    assert not torch.allclose(first, other, rtol=1e-3)


def test_ignored_and_padded_tokens_draw_no_labels(tmp_path):
    trainer = make_trainer(tmp_path, OBS)
    logits = torch.randn(2, 4, 3, requires_grad=True)
    batch = {
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]),
        "labels": torch.tensor([[-100, 2, 0, -100], [-100, 1, -100, -100]]),
    }
    trainer._loss_without_data({"logits": logits}, batch, "model", torch.Generator()).backward()
    assert (logits.grad.abs().sum(dim=2) > 0).tolist() == [[False, True, True, False], [False, True, False, False]]


def test_gradients_for_the_teachers_distributions_are_those_of_the_distillation_loss_at_its_temperature(tmp_path):
    recipe = OBS + DISTILL.replace("hardness: 0.7", "hardness: 0.7\n    temperature: 3.0")
    trainer = make_trainer(tmp_path, recipe)
    (sampled,) = samples_of(trainer, "teacher", count=1, size=32)
    rows = {name: torch.stack([row[name] for row in make_data()]) for name in ("input_ids", "attention_mask")}
    own, targets = trainer.model.eval()(**rows), trainer.teacher(**rows)
    loss = sum(distillation_loss(own[name], targets[name], 3.0) for name in ("start_logits", "end_logits")) / 2
    loss.backward()
    expected = trainer.model.bert.encoder.layer[0].attention.self.query.weight.grad
    torch.testing.assert_close(sampled, expected, rtol=1e-3, atol=1e-7)


def test_labels_that_cannot_be_had_are_refused(tmp_path):
    trainer = make_trainer(tmp_path, OBS + "    fisher_labels: teacher\n")
    assert trainer.manager.needs_reference
    with pytest.raises(ManagerError, match="fisher_labels: teacher needs a teacher: give --distill_teacher"):
        trainer.apply_one_shot()
    trainer = make_trainer(tmp_path, OBS + "    fisher_labels: model\n")
    trainer.model.config.problem_type = "multi_label_classification"
    with pytest.raises(ManagerError, match="fisher_labels: model draws one class, but problem_type is"):
        trainer.apply_one_shot()
