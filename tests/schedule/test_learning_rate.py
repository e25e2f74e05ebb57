"""Learning rates, compared with closed forms and torch's schedulers."""

import math
import time

import pytest
import torch

from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.recipe.document import RecipeError

STEPS = 8  # an epoch


def rates(recipe: str, epochs: int, base: float = 0.5) -> list[float]:
    manager = ScheduledModifierManager.from_yaml(recipe)
    return [manager.learning_rate(TrainingStep(step, STEPS), 0, base) for step in range(epochs * STEPS)]


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


def scheduler_of_torch(name: str, settings: dict, steps: int) -> list[float]:
    """Rates of torch's own scheduler, from 0.3, stepped so often."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    scheduler = getattr(torch.optim.lr_scheduler, name)(optimizer, **settings)
    rates = []
    for _ in range(steps):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("name", "settings", "of_torch"),
    [
        ("StepLR", {"step_size": 2, "gamma": 0.1}, {"step_size": 2 * STEPS, "gamma": 0.1}),
        ("StepLR", {"step_size": 0.25, "gamma": 1.5}, {"step_size": STEPS // 4, "gamma": 1.5}),
        ("StepLR", {"step_size": 0.01, "gamma": 0.9}, {"step_size": 1, "gamma": 0.9}),
        ("MultiStepLR", {"milestones": [2, 4.5], "gamma": 0.5}, {"milestones": [STEPS, 7 * STEPS // 2], "gamma": 0.5}),
    ],
)
def test_schedulers_of_torch_count_steps_from_the_start_to_the_last_one_before_the_end(name, settings, of_torch):
    recipe = f"""
modifiers:
  - !LearningRateModifier
    lr_class: {name}
    lr_kwargs: {settings}
    init_lr: 0.3
    start_epoch: 1.0
    end_epoch: 5.0
"""
    expected = scheduler_of_torch(name, of_torch, 4 * STEPS)
    assert rates(recipe, 7) == pytest.approx([0.5] * STEPS + expected + expected[-1:] * 2 * STEPS)


@pytest.mark.parametrize(("name", "settings"), [("ExponentialLR", {"gamma": 0.9}), ("CosineAnnealingLR", {"T_max": 3})])
def test_schedulers_of_torch_without_a_time_count_epochs(name, settings):
    recipe = f"modifiers:\n  - !LearningRateModifier {{lr_class: {name}, init_lr: 0.3, end_epoch: 5.0, "
    recipe += f"lr_kwargs: {settings}}}"
    expected = scheduler_of_torch(name, settings, 5)
    assert rates(recipe, 7)[::STEPS] == pytest.approx([*expected, expected[-1], expected[-1]])


@pytest.mark.parametrize("keys", [("cycle_epochs", "lr_min"), ("T_0", "eta_min")])
@pytest.mark.parametrize("growth", [1, 2, 3])
def test_warm_restarts_follow_torch_at_every_step_and_hold_at_the_end(growth, keys):
    settings = {keys[0]: 1, keys[1]: 0.01, "T_mult": growth}
    recipe = "modifiers:\n  - !LearningRateModifier {lr_class: CosineAnnealingWarmRestarts, init_lr: 0.3, "
    recipe += f"start_epoch: 0.5, end_epoch: 6.25, lr_kwargs: {settings}}}"
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=1, T_mult=growth, eta_min=0.01)
    expected = [0.5] * (STEPS // 2)
    for step in range(5 * STEPS + 6):
        scheduler.step(step / STEPS)
        expected.append(scheduler.get_last_lr()[0])
    assert rates(recipe, 7) == pytest.approx(expected + expected[-1:] * 6)


@pytest.mark.parametrize("start", range(10))
def test_a_restart_is_not_put_off_by_rounding_where_it_was_in_sparseml(start):
    """2.3 - 0.3 is below 2."""
    recipe = "modifiers:\n  - !LearningRateModifier {lr_class: CosineAnnealingWarmRestarts, init_lr: 0.3, "
    recipe += f"start_epoch: {start / 10}, end_epoch: 9.0, lr_kwargs: {{cycle_epochs: 2, lr_min: 0.0}}}}"
    manager = ScheduledModifierManager.from_yaml(recipe)
    for restart in (start, start + 20, start + 40):
        assert manager.learning_rate(TrainingStep(restart, 10), 0, 0.5) == pytest.approx(0.3)


def test_short_cycles_are_taken_where_torch_knows_whole_ones():
    recipe = "modifiers:\n  - !LearningRateModifier {lr_class: CosineAnnealingWarmRestarts, init_lr: 0.3, "
    recipe += "end_epoch: 2.0, lr_kwargs: {cycle_epochs: 0.5, lr_min: 0.1}}"
    cycle = [0.1 + 0.2 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4)]
    assert rates(recipe, 2) == pytest.approx(cycle * 4)


def test_a_schedule_from_minus_one_is_one_from_the_start_where_sparseml_stood_still_or_was_an_epoch_late():
    for lr_class, settings in (
        ("CosineAnnealingWarmRestarts", "{cycle_epochs: 2, lr_min: 0.01}"),
        ("MultiStepLR", "{milestones: [2]}"),
    ):
        recipe = f"modifiers:\n  - !LearningRateModifier {{lr_class: {lr_class}, init_lr: 0.3, lr_kwargs: {settings}, "
        ours = rates(recipe + "start_epoch: -1}", 4)
        assert ours == rates(recipe + "start_epoch: 0}", 4)
        assert ours[2 * STEPS] != ours[2 * STEPS - 1]


def test_scheduler_that_does_not_take_its_settings_is_an_error():
    with pytest.raises(RecipeError, match="lr_kwargs of StepLR require step_size"):
        ScheduledModifierManager.from_yaml(
            "modifiers:\n  - !LearningRateModifier\n    {lr_class: StepLR, init_lr: 1.0}\n"
        )


def test_groups_of_parameters_have_learning_rates_of_their_own():
    manager = ScheduledModifierManager.from_yaml(
        "modifiers:\n"
        "  - !SetLearningRateModifier {learning_rate: 0.1, param_groups: [0]}\n"
        "  - !SetLearningRateModifier {learning_rate: 0.2, param_groups: [1]}\n"
    )
    assert [manager.learning_rate(TrainingStep(0, STEPS), group, 0.5) for group in range(3)] == [0.1, 0.2, 0.5]


@pytest.mark.parametrize(
    "keys",
    [
        "lr_class: StepLR, lr_kwargs: {step_size: 0}",
        "lr_class: StepLR, lr_kwargs: {step_size: [1]}",
        "lr_class: ExponentialLR, lr_kwargs: {gamma: 0.5, step_size: 2}",
        "lr_class: MultiStepLR, start_epoch: 1, lr_kwargs: {milestones: [1]}",
        "lr_class: MultiStepLR, end_epoch: 3, lr_kwargs: {milestones: [1, 3]}",
        "lr_class: CosineAnnealingWarmRestarts, lr_kwargs: {lr_min: 0.1}",
        "lr_class: CosineAnnealingWarmRestarts, lr_kwargs: {cycle_epochs: 1, T_0: 1}",
        "lr_class: CosineAnnealingWarmRestarts, lr_kwargs: {cycle_epochs: 1, T_mult: 1.5}",
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
def test_settings_that_are_invalid_for_a_scheduler_of_torch_are_refused(keys):
    with pytest.raises(RecipeError, match="line 2: LearningRateModifier: "):
        ScheduledModifierManager.from_yaml(f"modifiers:\n  - !LearningRateModifier {{init_lr: 0.1, {keys}}}")


def test_no_groups_are_all_groups_as_in_sparseml():
    keys = "  - !SetLearningRateModifier {learning_rate: 0.1, param_groups: []}\n"
    manager = ScheduledModifierManager.from_yaml("modifiers:\n" + keys)
    assert [manager.learning_rate(TrainingStep(0, STEPS), group, 0.5) for group in range(2)] == [0.1, 0.1]
    with pytest.raises(RecipeError, match="sets the same learning rate"):
        ScheduledModifierManager.from_yaml("modifiers:\n" + keys * 2)


def test_a_range_to_minus_one_leaves_the_length_to_the_command_line():
    manager = ScheduledModifierManager.from_yaml("modifiers:\n  - !EpochRangeModifier {end_epoch: -1}\n")
    assert manager.max_epochs == 0.0


@pytest.mark.parametrize("rate", ["-0.1", "1e9"])
def test_learning_rate_out_of_range_is_refused(rate):
    with pytest.raises(RecipeError, match="must be a learning rate in"):
        ScheduledModifierManager.from_yaml(f"modifiers:\n  - !SetLearningRateModifier {{learning_rate: {rate}}}")


@pytest.mark.parametrize(
    "keys",
    [
        "StepLR, lr_kwargs: {step_size: 0.000001, gamma: 10}",
        "ExponentialLR, lr_kwargs: {gamma: 0.5}",
        "CosineAnnealingWarmRestarts, lr_kwargs: {cycle_epochs: 0.000001, lr_min: 0.1}",
        "CosineAnnealingWarmRestarts, lr_kwargs: {cycle_epochs: 0.000001, lr_min: 0.1, T_mult: 2}",
    ],
)
def test_a_rate_after_a_million_epochs_takes_no_time(keys):
    manager = ScheduledModifierManager.from_yaml(
        f"modifiers:\n  - !LearningRateModifier {{init_lr: 1.0, lr_class: {keys}}}"
    )
    started = time.process_time()
    assert math.isfinite(manager.learning_rate(TrainingStep(10**6 * STEPS, STEPS), 0, 0.5))
    assert time.process_time() - started < 1
