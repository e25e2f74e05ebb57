"""Modifiers of a recipe that set one learning rate at a time."""

import pytest

from helpers.loading import RANGE, load, problem_of


def function(start: float, end: float, groups: str = "null") -> str:
    fields = f"start_epoch: {start}, end_epoch: {end}, param_groups: {groups}"
    return f"  - !LearningRateFunctionModifier {{lr_func: linear, init_lr: 0.1, final_lr: 0.0, {fields}}}\n"


def setting(start: float, groups: str = "null") -> str:
    return f"  - !SetLearningRateModifier {{learning_rate: 0.1, start_epoch: {start}, param_groups: {groups}}}\n"


def stepping(start: float, end: float) -> str:
    fields = f"start_epoch: {start}, end_epoch: {end}"
    return f"  - !LearningRateModifier {{lr_class: ExponentialLR, lr_kwargs: {{gamma: 0.9}}, init_lr: 0.1, {fields}}}\n"


@pytest.mark.parametrize(
    ("lines", "fights"),
    [
        (function(0, 1) + function(1, 3), False),
        (function(1, 3) + function(0, 1), False),
        (function(0, 2) + function(1, 3), True),
        (function(0, 9) + function(1, 3), True),
        (function(0, 9, "[0]") + function(1, 3, "[1]"), False),
        (function(0, 9, "[0, 1]") + function(1, 3, "[1]"), True),
        (function(0, 9) + function(1, 3, "[1]"), True),
        (function(-1, 3) + function(2, 4), True),
        (stepping(0, -1) + function(5, 6), True),
        (stepping(0, 5) + function(5, 6), False),
        (setting(0) + function(0, 5), False),
        (setting(5) + function(0, 5), False),
        (setting(2) + function(0, 5), True),
        (function(0, 5) + setting(2), True),
        (setting(2, "[1]") + function(0, 5, "[0]"), False),
        (setting(0) + setting(2), False),
        (setting(2) + setting(2), True),
        (setting(-1) + setting(0), True),
    ],
)
def test_two_modifiers_that_set_one_learning_rate_are_refused(lines, fights):
    if fights:
        problem = problem_of("modifiers:\n" + lines)
        assert problem.startswith("<recipe>, line 3: ")
        assert "sets the same learning rate as the" in problem
        assert "of line 2" in problem
    else:
        assert len(load("modifiers:\n" + lines).modifiers) == 2


def test_two_epoch_ranges_do_not_conflict():
    assert len(load(RANGE + "  - !EpochRangeModifier\n    end_epoch: 9.0\n").modifiers) == 2
