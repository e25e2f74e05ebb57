"""Gradients of the task loss, sampled for second-order pruning."""

import datasets
import pytest
import torch

from helpers.recipes import PRUNE
from helpers.trainers import SparseTrainer, arguments, make_data, make_model, make_trainer
from sparsification.distillation.teacher_cache import SAMPLE_INDEX
from sparsification.manager import ScheduledModifierManager

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
