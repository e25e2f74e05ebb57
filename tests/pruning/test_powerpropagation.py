"""Powers of weights against a model that has their roots as its parameters."""

import pytest
import torch

from helpers.recipes import LINEAR, POWER, PRUNE
from helpers.trainers import assert_same_model, make_trainer
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.pruning.powerpropagation import power, slope
from sparsification.recipe.document import RecipeError

BOTH = """
modifiers:
  - !PowerpropagationModifier
    params: [weight]
    alpha: {alpha}
    start_epoch: {start}
    end_epoch: 5.0
  - !GMPruningModifier
    params: [weight]
    init_sparsity: 0.2
    final_sparsity: 0.5
    start_epoch: 2.0
    end_epoch: 6.0
    update_frequency: 1.0
    mask_type: block4
"""


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0, 4.0])
def test_power_root_and_slope(alpha):
    root = torch.tensor([-2.0, -0.5, 0.0, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    weight = power(root, alpha)
    torch.testing.assert_close(weight, root * root.abs() ** (alpha - 1))
    torch.testing.assert_close(power(weight, 1 / alpha), root)
    (gradient,) = torch.autograd.grad((root * root.abs() ** (alpha - 1)).sum(), root)
    nonzero = root.detach() != 0
    torch.testing.assert_close(slope(weight.detach(), alpha)[nonzero], gradient[nonzero])
    assert slope(torch.zeros(1), alpha) == (1 if alpha == 1 else 0)


class Rooted(torch.nn.Module):
    """The paper's layer: its parameter is the root."""

    def __init__(self, weight: torch.Tensor, alpha: float):
        super().__init__()
        self.root = torch.nn.Parameter(weight.sign() * weight.abs() ** (1 / alpha))
        self.alpha = alpha

    @property
    def weight(self) -> torch.Tensor:
        return self.root * self.root.abs() ** (self.alpha - 1)


@pytest.mark.parametrize("alpha", [1.5, 3.0])
@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_steps_are_those_of_a_model_of_roots_pruned_and_clipped(alpha, kind):
    torch.manual_seed(0)
    inputs, targets = torch.randn(20, 16, 8).double(), torch.randn(20, 16, 12).double()
    module = torch.nn.Linear(8, 12, bias=False, dtype=torch.float64)
    manager = ScheduledModifierManager.from_yaml(BOTH.format(alpha=alpha, start=0.0))
    manager.initialize(module)
    reference = Rooted(module.weight.detach().clone(), alpha)
    settings = {"lr": 0.05, "weight_decay": 0.1}
    optimizer, other = kind(module.parameters(), **settings), kind(reference.parameters(), **settings)
    manager.on_train_begin(TrainingStep(0, 2))
    keep = torch.ones(12, 8)
    for step in range(10):
        (module(inputs[step]) - targets[step]).square().mean().backward()
        manager.after_backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 0.05)
        manager.update(TrainingStep(step, 2), optimizer)
        optimizer.step()
        manager.after_optimizer_step()

        (inputs[step] @ reference.weight.T - targets[step]).square().mean().backward()
        reference.root.grad.nan_to_num_(0.0).mul_(keep)  # autograd takes 0 times infinity at zero
        torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.05)
        if step in (4, 6, 8):
            blocks = reference.weight.detach().abs().view(12, 2, 4).mean(dim=2)  # of the weights, not of their roots
            sparsity = 0.2 + 0.3 * (1 - (1 - (step / 2 - 2) / 4) ** 3)
            keep = (blocks > blocks.flatten().sort().values[round(24 * sparsity) - 1]).repeat_interleave(4, dim=1)
        reference.root.data.mul_(keep)
        other.step()
        reference.root.data.mul_(keep)
        torch.testing.assert_close(module.weight.detach(), reference.weight.detach(), rtol=1e-9, atol=1e-12)
        for moving in (optimizer, other):
            moving.zero_grad()
    assert int((module.weight == 0).sum()) > 30


def test_alpha_1_is_training_as_ever_and_2_is_not(tmp_path):
    models = []
    for recipe in (PRUNE, POWER.replace("2.0", "1.0") + PRUNE, POWER + PRUNE):
        trainer = make_trainer(tmp_path, recipe)
        trainer.train()
        models.append(trainer.model)
    plain, one, two = models
    assert_same_model(plain, one)
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(plain.get_parameter(name), two.get_parameter(name))


def test_outside_of_its_window_weights_are_trained_as_ever():
    torch.manual_seed(0)
    module = torch.nn.Linear(8, 12)
    manager = ScheduledModifierManager.from_yaml(BOTH.format(alpha=2.0, start=1.0).partition("  - !GM")[0])
    manager.initialize(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    manager.on_train_begin(TrainingStep(0, 1))
    for step in range(7):
        before = module.weight.detach().clone()
        module.weight.grad = torch.ones(12, 8)
        manager.after_backward()
        manager.update(TrainingStep(step, 1), optimizer)
        optimizer.step()
        manager.after_optimizer_step()
        assert torch.equal(module.weight, before - 0.1) == (step < 1 or step >= 5)
        shown = manager.metrics(TrainingStep(step, 1))["PowerpropagationModifier/alpha"]
        assert shown == (2.0 if 1 <= step < 5 else 1.0)


def test_weights_that_do_not_train_stay_bit_by_bit(tmp_path):
    frozen = (
        "  - !TrainableParamsModifier\n    params: ['re:.*key.weight']\n    trainable: False\n    start_epoch: 0.0\n"
    )
    trainer = make_trainer(tmp_path, POWER + frozen)
    key = trainer.model.get_parameter("bert.encoder.layer.0.attention.self.key.weight")
    before = key.detach().clone()
    trainer.train()
    assert torch.equal(key, before)


def test_a_pattern_without_a_match_is_an_error_where_strict():
    recipe = POWER.replace(LINEAR, "re:nothing")
    with pytest.raises(ManagerError, match="no parameter matches 're:nothing'"):
        ScheduledModifierManager.from_yaml(recipe).initialize(torch.nn.Linear(2, 2))
    ScheduledModifierManager.from_yaml(recipe + "    strict: False\n").initialize(torch.nn.Linear(2, 2))


def test_alpha_below_1_is_refused():
    with pytest.raises(RecipeError, match="alpha must be at least 1 and finite, got 0.5"):
        ScheduledModifierManager.from_yaml(POWER.replace("2.0", "0.5"))
