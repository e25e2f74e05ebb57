"""Learning rates against closed forms and torch's own schedulers."""

import pytest
import torch

from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import Clock
from sparsification.recipe import RecipeError

STEPS = 8  # an epoch


def rates(recipe: str, epochs: int, base: float = 0.5) -> list[float]:
    manager = ScheduledModifierManager.from_yaml(recipe)
    return [manager.learning_rate(Clock(step, STEPS), 0, base) for step in range(epochs * STEPS)]


def test_cyclic_linear_reaches_final_at_the_last_step_of_a_cycle_and_holds_init_afterwards():
    recipe = """
modifiers:
  - !LearningRateFunctionModifier
    lr_func: cyclic_linear
    init_lr: 0.8
    final_lr: 0.1
    cycle_epochs: 0.5
    start_epoch: 1.0
    end_epoch: 2.0
"""
    cycle = [0.8 - 0.7 * k / 3 for k in range(4)]
    assert rates(recipe, 3) == pytest.approx([0.5] * 8 + cycle * 2 + [0.8] * 8)


def test_a_last_cycle_that_has_no_room_is_shorter_and_reaches_final_too():
    recipe = "modifiers: [!LearningRateFunctionModifier {lr_func: cyclic_linear, init_lr: 0.8, final_lr: 0.2, "
    recipe += "start_epoch: 0.0, end_epoch: 1.5}]\n"
    assert rates(recipe, 2) == pytest.approx(
        [0.8 - 0.6 * k / 7 for k in range(8)] + [0.8 - 0.6 * k / 3 for k in range(4)] + [0.8] * 4
    )


def test_warm_up_and_decay_meet():
    recipe = """
modifiers:
  - !LearningRateFunctionModifier
    {lr_func: linear, init_lr: 0.0, final_lr: 0.4, start_epoch: 0.0, end_epoch: 1.0}
  - !LearningRateFunctionModifier
    {lr_func: linear, init_lr: 0.4, final_lr: 0.0, start_epoch: 1.0, end_epoch: 2.0}
"""
    up = [0.4 * k / 8 for k in range(8)]
    assert rates(recipe, 3) == pytest.approx([*up, *[0.4 - value for value in up], *[0.0] * 8])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("StepLR", {"step_size": 2, "gamma": 0.1}),
        ("MultiStepLR", {"milestones": [1, 4], "gamma": 0.5}),
        ("ExponentialLR", {"gamma": 0.9}),
        ("CosineAnnealingLR", {"T_max": 5}),
    ],
)
def test_schedulers_of_torch_step_once_an_epoch_until_the_end(name, settings):
    recipe = f"""
modifiers:
  - !LearningRateModifier
    lr_class: {name}
    lr_kwargs: {settings}
    init_lr: 0.3
    start_epoch: 1.0
    end_epoch: 5.0
"""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **settings)
    expected = [0.5]
    for _ in range(5):
        expected.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    expected.append(expected[-1])
    ours = rates(recipe, 7)
    assert ours[::STEPS] == ours[STEPS - 1 :: STEPS] == pytest.approx(expected)


def test_scheduler_that_does_not_take_its_settings_is_an_error():
    with pytest.raises(RecipeError, match="lr_kwargs do not fit StepLR: .*step_size"):
        ScheduledModifierManager.from_yaml(
            "modifiers:\n  - !LearningRateModifier\n    {lr_class: StepLR, init_lr: 1.0}\n"
        )


def test_groups_of_parameters_have_learning_rates_of_their_own():
    manager = ScheduledModifierManager.from_yaml(
        "modifiers:\n"
        "  - !SetLearningRateModifier {learning_rate: 0.1, param_groups: [0]}\n"
        "  - !SetLearningRateModifier {learning_rate: 0.2, param_groups: [1]}\n"
    )
    assert [manager.learning_rate(Clock(0, STEPS), group, 0.5) for group in range(3)] == [0.1, 0.2, 0.5]


@pytest.mark.parametrize(
    "keys",
    [
        "lr_class: StepLR, lr_kwargs: {step_size: 0}",
        "lr_class: StepLR, lr_kwargs: {step_size: a}",
        "lr_class: MultiStepLR, lr_kwargs: {milestones: 3}",
        "lr_class: MultiStepLR, lr_kwargs: {milestones: [x]}",
        "lr_class: ExponentialLR, lr_kwargs: {gamma: 1e300}",
        "lr_class: CosineAnnealingLR, lr_kwargs: {T_max: 0}",
        "lr_class: CosineAnnealingLR, lr_kwargs: {T_max: 5, last_epoch: 4}",
        "lr_class: CosineAnnealingWarmRestarts, lr_kwargs: {T_0: 1, T_mult: 1000000000000}",
        "lr_class: StepLR, lr_kwargs: {step_size: 1}, end_epoch: 1e12",
    ],
)
def test_what_a_scheduler_of_torch_would_stumble_over_is_told_when_the_recipe_is_read(keys):
    with pytest.raises(RecipeError, match="line 2: LearningRateModifier: "):
        ScheduledModifierManager.from_yaml(f"modifiers:\n  - !LearningRateModifier {{init_lr: 0.1, {keys}}}")


@pytest.mark.parametrize("rate", ["-0.1", "1e9"])
def test_rate_that_is_none_is_refused(rate):
    with pytest.raises(RecipeError, match="is no learning rate"):
        ScheduledModifierManager.from_yaml(f"modifiers:\n  - !SetLearningRateModifier {{learning_rate: {rate}}}")


def test_a_scheduler_is_not_followed_for_ever():
    recipe = "modifiers:\n  - !LearningRateModifier {lr_class: StepLR, lr_kwargs: {step_size: 5000}, init_lr: 1.0}"
    manager = ScheduledModifierManager.from_yaml(recipe)
    assert manager.learning_rate(Clock(10**12 * STEPS, STEPS), 0, 0.5) == pytest.approx(0.01)
