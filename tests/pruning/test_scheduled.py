"""The base of scheduled pruning, by techniques of a user's own that override ``compute_masks`` alone."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch

from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import MODIFIERS, GradualPruning, ScheduledPruning, TrainingStep
from sparsification.pruning.masks import unstructured_mask
from sparsification.recipe.document import RecipeError


@dataclass(kw_only=True)
class LastRowsPruning(ScheduledPruning):
    """Prune the last rows, from the first mask on with one sparsity."""

    params: list[str] | str
    sparsity: float
    update_frequency: float = 0.5
    mask_type: str = "unstructured"
    leave_enabled: bool = True

    def groups(self):
        return [(self.sparsity, [self.params])]

    def compute_masks(self, targets, step, progress):
        self.calls = [*getattr(self, "calls", []), (dict(targets), step, progress)]
        return {
            name: unstructured_mask(-torch.arange(self.masked.weights[name].numel()).view(8, 8), sparsity)
            for name, sparsity in targets.items()
        }


@dataclass(kw_only=True)
class LargestFirstPruning(GradualPruning):
    """Gradual pruning that prunes the largest weights."""

    def compute_masks(self, targets, step, progress):
        return self.masks_by_score(lambda name: -self.magnitude(name), targets)


OWN = {kind.__name__: kind for kind in (LastRowsPruning, LargestFirstPruning)}


def manager_of(line: str) -> ScheduledModifierManager:
    recipe = f"modifiers:\n  - !{line}\n"
    return ScheduledModifierManager.from_yaml(recipe, modifiers=MODIFIERS | OWN)


def train(manager: ScheduledModifierManager, model: torch.nn.Module, first: int, last: int) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(first, last):
        optimizer.zero_grad()
        model(torch.randn(4, 8, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        manager.after_backward()
        manager.update(TrainingStep(step, 4), optimizer)
        optimizer.step()
        manager.after_optimizer_step()


def test_masks_are_computed_at_the_steps_of_the_schedule_with_their_targets_and_progress():
    manager = manager_of("LastRowsPruning {params: weight, sparsity: 0.25, start_epoch: 1.0, end_epoch: 2.0}")
    model = torch.nn.Linear(8, 8)
    manager.initialize(model)
    train(manager, model, 0, 12)
    (modifier,) = manager.modifiers
    assert modifier.calls == [({"weight": 0.25}, 4, 0.0), ({"weight": 0.25}, 6, 0.5), ({"weight": 0.25}, 8, 1.0)]
    assert (model.weight[6:] == 0).all() and (model.weight[:6] != 0).all()
    assert [modifier.target_sparsity(0.25, epoch) for epoch in (0.5, 1.0, 9.0)] == [0.0, 0.25, 0.25]


def test_state_holds_the_masks_of_a_technique_of_ones_own():
    line = "LargestFirstPruning {params: [weight], final_sparsity: 0.5, start_epoch: 0.0, end_epoch: 3.0}"
    weights, states = [], []
    for stops in ([12], [5, 12]):
        torch.manual_seed(0)
        model, first, state = torch.nn.Linear(8, 8), 0, {}
        for last in stops:
            manager = manager_of(line)
            manager.initialize(model)
            if state:
                manager.load_state_dict(state)
            train(manager, model, first, last)
            first, state = last, manager.state_dict()
        weights.append(model.weight.detach().clone())
        states.append(state)
    assert weights[0].equal(weights[1])
    assert list(states[0]) == list(states[1])
    assert sorted(states[0]) == [f"LargestFirstPruning/{name}" for name in ("goals", "init_sparsity", "mask.weight")]
    assert int((~manager.modifiers[0].masked.mask("weight")).sum()) == 32


def test_one_shot_computes_the_final_masks_at_once():
    manager = manager_of("LargestFirstPruning {params: [weight], final_sparsity: 0.75, end_epoch: 3.0}")
    model = torch.nn.Linear(8, 8)
    manager.initialize(model)
    smallest = model.weight.detach().abs().flatten().sort().values[:16]
    manager.apply_one_shot()
    kept = model.weight.detach()[model.weight != 0].abs().sort().values
    assert kept.equal(smallest)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("sparsity: 1.2, end_epoch: 1.0", r"final sparsity must be in \[0, 1\], got 1.2"),
        ("sparsity: 0.5", "needs an end_epoch"),
        ("sparsity: 0.5, end_epoch: 1.0, final_sparsity: 0.5", "has no key 'final_sparsity'"),
        ("sparsity: 0.5, end_epoch: 1.0, max_sparsity: 0.5", "has no key 'max_sparsity'"),
    ],
)
def test_a_technique_has_the_keys_that_it_declares_and_the_checks_of_its_base(keys, message):
    with pytest.raises(RecipeError, match=message):
        manager_of(f"LastRowsPruning {{params: weight, {keys}}}")


@pytest.mark.parametrize("kind", MODIFIERS.values())
def test_no_modifier_switches_a_key_of_its_base_off(kind):
    assert all(field.init for field in dataclasses.fields(kind))
