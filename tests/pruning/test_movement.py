"""Movement pruning against its formula; tests/parity/test_golden.py has it against SparseML."""

import pytest
import torch

from helpers.recipes import PRUNE
from helpers.trainers import make_trainer
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.pruning.masks import unstructured_mask

MOVEMENT = """
modifiers:
  - !MovementPruningModifier
    params: [weight]
    init_sparsity: 0.5
    final_sparsity: 0.5
    start_epoch: 1.0
    end_epoch: 3.0
    update_frequency: 1.0
"""


def test_masks_are_those_of_the_summed_products_of_weight_and_gradient():
    generator = torch.Generator().manual_seed(0)
    module = torch.nn.Linear(8, 8)
    manager = ScheduledModifierManager.from_yaml(MOVEMENT)
    manager.initialize(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    score, came_back = torch.zeros(8, 8), 0
    for step in range(13):
        module.weight.grad = torch.randn(8, 8, generator=generator)
        manager.after_backward()
        score -= module.weight.detach() * module.weight.grad
        before = module.weight.detach().clone()
        manager.update(TrainingStep(step, 4), optimizer)
        if step in (4, 8, 12):
            keep = unstructured_mask(score, 0.5)
            assert torch.equal(module.weight, torch.where(keep, before, 0.0))
            came_back += int((keep & (before == 0)).sum())
        optimizer.step()
        manager.after_optimizer_step()
    assert came_back > 0


def test_overflowing_gradients_are_left_out_of_the_scores():
    module = torch.nn.Linear(4, 4)
    manager = ScheduledModifierManager.from_yaml(MOVEMENT)
    manager.initialize(module)
    module.weight.grad = torch.full((4, 4), torch.inf)
    manager.update(TrainingStep(0, 4), torch.optim.SGD(module.parameters(), lr=0.1))
    (scores,) = [value for name, value in manager.state_dict().items() if "score." in name]
    assert (scores == 0).all()


def test_final_sparsity_is_reached_in_every_weight(tmp_path):
    trainer = make_trainer(tmp_path, PRUNE.replace("GMPruning", "MovementPruning"))
    trainer.train()
    for sparsity in trainer.manager.modifiers[0].masked.sparsities().values():
        assert sparsity == pytest.approx(0.8, abs=0.005)


def test_one_shot_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, PRUNE.replace("GMPruning", "MovementPruning"))
    with pytest.raises(ManagerError, match="MovementPruningModifier: movement pruning cannot be done in one shot"):
        trainer.apply_one_shot()
