"""Parameters that are set, compared with a plain loop over the epochs."""

import pytest
import torch

from helpers.recipes import PRUNE
from helpers.trainers import make_trainer
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.recipe.document import RecipeError

SET = "modifiers:\n  - !SetParamModifier\n    params: [bias]\n    val: 0.25\n    start_epoch: 1.0\n"
GRADUAL = """
modifiers:
  - !GradualParamModifier
    params: [bias]
    init_val: 1.0
    final_val: 3.0
    start_epoch: 1.0
    end_epoch: 3.0
    update_frequency: 0.5
"""


def values(recipe: str, moved: float = 0.0) -> list[float]:
    """The bias of a small layer after the update of each of 16 steps, 4 an epoch; training moves it by ``moved``."""
    module = torch.nn.Linear(2, 2)
    torch.nn.init.zeros_(module.bias)
    manager = ScheduledModifierManager.from_yaml(recipe)
    manager.initialize(module)
    seen = []
    for step in range(16):
        manager.update(TrainingStep(step, 4), None)
        seen.append(module.bias[0].item())
        module.bias.data += moved
    return seen


def test_a_parameter_is_set_once_and_learns_on():
    assert values(SET, moved=1.0) == [0.0, 1.0, 2.0, 3.0, *(0.25 + step for step in range(12))]


def test_a_parameter_follows_its_curve_at_its_frequency():
    line = [1.0, 1.0, 1.5, 1.5, 2.0, 2.0, 2.5, 2.5, 3.0]
    assert values(GRADUAL) == [0.0] * 4 + line + [3.0] * 3
    cubic = values(GRADUAL + "    inter_func: cubic\n")
    assert cubic[4::2][:5] == pytest.approx([1 + 2 * (1 - (1 - x) ** 3) for x in (0, 0.25, 0.5, 0.75, 1)])


def test_a_vector_gets_a_number_each_and_one_shot_the_last_ones():
    module = torch.nn.Linear(2, 2)
    manager = ScheduledModifierManager.from_yaml(GRADUAL.replace("3.0\n    start", "[5.0, -5.0]\n    start"))
    manager.initialize(module)
    manager.apply_one_shot()
    assert module.bias.tolist() == [5.0, -5.0]


def test_values_that_do_not_fit_are_refused():
    manager = ScheduledModifierManager.from_yaml(SET.replace("0.25", "[1.0, 2.0, 3.0]"))
    with pytest.raises(ManagerError, match=r"bias has shape \(2,\), got 3 values"):
        manager.initialize(torch.nn.Linear(2, 2))
    with pytest.raises(RecipeError, match="needs an end_epoch"):
        ScheduledModifierManager.from_yaml(GRADUAL.replace("    end_epoch: 3.0\n", ""))
    lenient = ScheduledModifierManager.from_yaml(SET.replace("[bias]", "[nothing]") + "    params_strict: False\n")
    lenient.initialize(torch.nn.Linear(2, 2))


def test_sparsemls_logging_modifier_changes_nothing(tmp_path):
    plain = make_trainer(tmp_path / "plain", PRUNE)
    plain.train()
    asked = make_trainer(tmp_path / "asked", PRUNE + "  - !SparsificationLoggingModifier\n    update_frequency: 0.5\n")
    asked.train()
    for one, other in zip(plain.model.parameters(), asked.model.parameters(), strict=True):
        assert torch.equal(one, other)
    keys = [set(trainer.state.log_history[5]) for trainer in (plain, asked)]
    assert keys[0] == keys[1] >= {"GMPruningModifier/sparsity", "GMPruningModifier/target_sparsity"}
