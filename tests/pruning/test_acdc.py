"""Alternating phases: when, and what they leave; tests/parity/test_golden.py has them against SparseML."""

import itertools

import pytest
import torch

from helpers.recipes import COMPRESS_NOW_AND_THEN
from helpers.trainers import make_model, make_trainer
from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.recipe.document import RecipeError

ACDC = """
modifiers:
  - !ACDCPruningModifier
    params: [weight]
    compression_sparsity: 0.75
    start_epoch: 1.0
    end_epoch: {end}
    update_frequency: {length}
"""


def phases(recipe: str, steps_per_epoch: int, epochs: int) -> list[float]:
    """The sparsity asked for in each step of a run with a small layer, which has it at the end of a phase."""
    torch.manual_seed(0)
    module = torch.nn.Linear(8, 8)
    manager = ScheduledModifierManager.from_yaml(recipe)
    manager.initialize(module)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    seen = []
    for step in range(steps_per_epoch * epochs):
        module.weight.grad = torch.ones(8, 8)
        manager.after_backward()
        manager.update(TrainingStep(step, steps_per_epoch), optimizer)
        optimizer.step()
        manager.after_optimizer_step()
        seen.append(manager.metrics(TrainingStep(step, steps_per_epoch))["ACDCPruningModifier/target_sparsity"])
        if step > 1 and seen[-1] == seen[-2]:
            assert (module.weight == 0).float().mean().item() == seen[-1]
    return seen


@pytest.mark.parametrize(
    ("end", "length", "expected"),
    [
        (5.0, 1.0, "DCDC"),
        (4.0, 1.0, "DCC"),  # the last phase is compressed, whatever its number: so it was in SparseML
        (5.0, 2.0, "DDCC"),
        (2.0, 1.0, "C"),
    ],
)
def test_phases_alternate_and_the_last_one_is_compressed(end, length, expected):
    seen = phases(ACDC.format(end=end, length=length), 4, 7)
    kinds = ["C" if zeros == 0.75 else "D" for zeros in seen[::4]]
    assert "".join(kinds) == ("D" + expected + "C" * 7)[:7]
    (modifier,) = ScheduledModifierManager.from_yaml(ACDC.format(end=end, length=length)).modifiers
    drawn = [modifier.target_sparsity(0.75, epoch) for epoch in range(7)]
    assert ["C" if zeros == 0.75 else "D" for zeros in drawn] == kinds


def test_phases_that_are_no_whole_number_of_steps_still_alternate():
    seen = phases(ACDC.format(end=6.0, length=0.55), 4, 7)
    changes = [step for step in range(1, 28) if (seen[step] == 0.75) != (seen[step - 1] == 0.75)]
    lengths = [later - earlier for earlier, later in itertools.pairwise(changes)]
    assert lengths and set(lengths) == {3}  # 2.2 steps, as one stride


@pytest.mark.parametrize(("reset", "forgotten"), [("True", True), ("False", False)])
def test_a_dense_phase_begins_without_momentum(reset, forgotten):
    module = torch.nn.Linear(8, 8)
    recipe = ACDC.format(end=5.0, length=1.0) + f"    momentum_buffer_reset: {reset}\n"
    manager = ScheduledModifierManager.from_yaml(recipe)
    manager.initialize(module)
    optimizer = torch.optim.AdamW(module.parameters())
    for step in range(13):
        module.weight.grad = torch.ones(8, 8)
        manager.after_backward()
        manager.update(TrainingStep(step, 4), optimizer)
        if step == 12:
            assert bool((optimizer.state[module.weight]["exp_avg"] == 0).all()) == forgotten
        optimizer.step()
        manager.after_optimizer_step()


def test_pruned_weights_learn_in_dense_phases_and_the_end_is_sparse(tmp_path):
    trainer = make_trainer(tmp_path, COMPRESS_NOW_AND_THEN)
    trainer.train()
    zeros = [e["ACDCPruningModifier/sparsity"] for e in trainer.state.log_history if "loss" in e]
    assert zeros[6] == pytest.approx(0.8, abs=0.001)
    assert zeros[13] == 0.0
    assert zeros[-1] == pytest.approx(0.8, abs=0.001)
    assert len(set(trainer.manager.modifiers[0].masked.sparsities().values())) > 1  # one ranking over all


def test_one_shot_compresses():
    manager = ScheduledModifierManager.from_yaml(COMPRESS_NOW_AND_THEN)
    manager.initialize(make_model())
    manager.apply_one_shot()
    assert manager.modifiers[0].masked.sparsity() == pytest.approx(0.8, abs=0.001)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("update_frequency: 0.5", "update_frequency: -1.0", "update_frequency must be greater than 0, got -1"),
        ("    update_frequency: 0.5\n", "", "requires update_frequency"),
        ("compression_sparsity", "final_sparsity", "has no key 'final_sparsity'"),
        ("    end_epoch: 2.5\n", "", "needs an end_epoch"),
    ],
)
def test_what_a_recipe_gets_wrong_is_said(old, new, message):
    with pytest.raises(RecipeError, match=message):
        ScheduledModifierManager.from_yaml(COMPRESS_NOW_AND_THEN.replace(old, new))
