"""Two sets of weights, one that computes and one that learns, against the paper's rules in numpy."""

import numpy as np
import pytest
import torch

from helpers.recipes import EXPLORE
from helpers.trainers import make_model, make_trainer
from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.recipe.document import RecipeError

TOPKAST = """
modifiers:
  - !TopKASTPruningModifier
    params: [weight]
    forward_sparsity: 0.75
    backward_sparsity: 0.5
    start_epoch: 1.0
    end_epoch: 4.0
    update_frequency: {every}
    active_weight_decay: 0.3
"""


def largest(weight: np.ndarray, sparsity: float) -> np.ndarray:
    mask = np.zeros(weight.size, bool)
    mask[np.argsort(-np.abs(weight))[: weight.size - round(weight.size * sparsity)]] = True
    return mask


class Reference:
    """All weights; the masks; SGD with momentum, which moves only what learns."""

    def __init__(self, weight: np.ndarray):
        self.weight, self.momentum = weight.copy(), np.zeros_like(weight)
        self.forward = self.backward = np.ones(weight.size, bool)

    def network(self) -> np.ndarray:
        return np.where(self.forward, self.weight, 0)

    def step(self, gradient: np.ndarray, new_masks: bool, decays: bool) -> None:
        gradient = np.where(self.backward, gradient, 0)
        if new_masks:
            self.forward, self.backward = largest(self.weight, 0.75), largest(self.weight, 0.5)
        if decays:
            share = np.where(self.forward, 1, np.where(self.backward, 1 / (1 - 0.75), 0))
            self.weight -= 0.3 * 0.1 * share * self.weight
        self.momentum = 0.9 * self.momentum + gradient
        self.weight = np.where(self.backward, self.weight - 0.1 * self.momentum, self.weight)


@pytest.mark.parametrize(("every", "updates"), [(-1.0, set(range(4, 17))), (0.5, set(range(4, 17, 2)))])
@pytest.mark.parametrize("leave", [True, False])
def test_the_largest_compute_and_more_learn(every, updates, leave):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    module = torch.nn.Linear(8, 12, bias=False, dtype=torch.float64)
    manager = ScheduledModifierManager.from_yaml(TOPKAST.format(every=every) + f"    leave_enabled: {leave}\n")
    manager.initialize(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    reference = Reference(module.weight.detach().flatten().numpy())
    came_back = 0
    for step in range(20):
        before = module.weight.detach().clone()
        gradient = torch.randn(12, 8, generator=generator, dtype=torch.float64)
        module.weight.grad = gradient.clone()
        manager.after_backward()
        manager.update(TrainingStep(step, 4), optimizer)
        optimizer.step()
        manager.after_optimizer_step()
        reference.step(gradient.flatten().numpy(), step in updates, 4 <= step < 16)
        if step == 16:  # the network stays as it is, or all learn again
            reference.backward = reference.forward = reference.forward if leave else np.ones(96, bool)
            if not leave:
                reference.weight = module.weight.detach().flatten().numpy().copy()
        np.testing.assert_allclose(module.weight.detach().flatten().numpy(), reference.network(), atol=1e-12)
        came_back += int(((before == 0) & (module.weight != 0)).sum())
        if 4 <= step < 16 or leave and step >= 16:
            assert int((module.weight == 0).sum()) == 72
    assert came_back > 0


def test_without_the_last_masks_all_weights_come_back():
    torch.manual_seed(0)
    module = torch.nn.Linear(8, 12, bias=False)
    whole = module.weight.detach().clone()
    manager = ScheduledModifierManager.from_yaml(TOPKAST.format(every=1.0) + "    leave_enabled: False\n")
    manager.initialize(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0)
    for step in range(5):
        module.weight.grad = torch.ones(12, 8)
        manager.after_backward()
        manager.update(TrainingStep(step, 1), optimizer)
        optimizer.step()
        manager.after_optimizer_step()
        assert torch.equal(module.weight, whole) == (step in (0, 4))


def test_what_computes_is_a_part_of_what_learns_in_one_ranking(tmp_path):
    trainer = make_trainer(tmp_path, EXPLORE)
    (pruning,) = trainer.manager.modifiers
    step = trainer.training_step
    learning = []

    def watch(*args, **kwargs):
        if pruning.masked.state_dict():
            assert pruning.masked.sparsity() == pytest.approx(0.8, abs=0.001)
        for name in pruning._learning.state_dict():
            assert (pruning._learning.mask(name) | ~pruning.masked.mask(name)).all()
            learning.append(pruning._learning.mask(name).float().mean().item())
        return step(*args, **kwargs)

    trainer.training_step = watch
    trainer.train()
    assert np.mean(learning) == pytest.approx(0.5, abs=0.05)
    assert len(set(pruning.masked.sparsities().values())) > 4


def test_one_shot_prunes_by_magnitude():
    manager = ScheduledModifierManager.from_yaml(EXPLORE)
    manager.initialize(make_model())
    manager.apply_one_shot()
    assert manager.modifiers[0].masked.sparsity() == pytest.approx(0.8, abs=0.001)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "forward_sparsity: 0.75",
            "forward_sparsity: 0.4",
            "< 1, got 0.5 and 0.4",
        ),
        ("forward_sparsity: 0.75", "forward_sparsity: 1.0", "< 1, got 0.5 and 1"),
        ("    backward_sparsity: 0.5\n", "", "requires backward_sparsity"),
        ("end_epoch: 4.0", "end_epoch: -1", "needs an end_epoch"),
        ("start_epoch: 1.0", "final_sparsity: 0.5", "has no key 'final_sparsity'"),
        ("start_epoch: 1.0", "mask_type: '2:4'", "needs global_sparsity False"),
    ],
)
def test_what_a_recipe_gets_wrong_is_said(old, new, message):
    with pytest.raises(RecipeError, match=message):
        ScheduledModifierManager.from_yaml(TOPKAST.format(every=1.0).replace(old, new))
