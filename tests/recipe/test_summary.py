"""Facts about a run that follow from its recipe alone."""

import math

from sparsification.base import TrainingStep
from sparsification.recipe.loader import load_recipe
from sparsification.recipe.summary import RecipeSummary

RECIPE = """
modifiers:
  - !EpochRangeModifier {end_epoch: 4.0}
  - !SetLearningRateModifier {start_epoch: 1.0, learning_rate: 0.1}
  - !SetLearningRateModifier {start_epoch: 2.0, learning_rate: 0.2}
  - !GMPruningModifier {params: ['re:.*weight'], final_sparsity: 0.8, start_epoch: 0.0, end_epoch: 3.0}
  - !DistillationModifier {start_epoch: 1.0, end_epoch: 2.0}
  - !QuantizationModifier {start_epoch: 3.5, num_calibration_steps: 7}
"""


def test_empty_recipe_and_none_require_nothing():
    for summary in (RecipeSummary(), RecipeSummary(load_recipe("modifiers: []\n"))):
        assert (summary.max_epochs, summary.final_epoch, summary.num_calibration_steps) == (0.0, -1.0, 0)
        flags = (summary.sets_learning_rate, summary.distills, summary.cached_layers, summary.quantizes)
        assert not any(flags)
        assert summary.learning_rate(TrainingStep(0, 10), 0, 0.5) == 0.5


def test_summary_of_a_recipe_with_everything():
    summary = RecipeSummary(load_recipe(RECIPE))
    assert (summary.max_epochs, summary.final_epoch, summary.num_calibration_steps) == (4.0, 3.5, 7)
    assert summary.sets_learning_rate and summary.distills and summary.quantizes and summary.cached_layers == {}


def test_learning_rate_is_that_of_the_modifier_that_started_last():
    summary = RecipeSummary(load_recipe(RECIPE))
    rates = [summary.learning_rate(TrainingStep(step, 10), 0, 0.5) for step in (0, 9, 10, 19, 20, 39)]
    assert rates == [0.5, 0.5, 0.1, 0.1, 0.2, 0.2]


def test_teacher_is_needed_within_the_window_of_distillation_alone():
    summary = RecipeSummary(load_recipe(RECIPE))
    steps = [TrainingStep(step, 10) for step in (9, 10, 19, 21)]
    assert [summary.distills_at(step) for step in steps] == [False, True, True, False]
    assert [summary.changes_loss_at(step) for step in steps] == [False, True, True, False]
    assert not any(summary.changes_loss_at(step, has_teacher=False) for step in steps)


def test_labels_have_no_effect_where_hardness_1_covers_the_run():
    full = "modifiers:\n  - !DistillationModifier {hardness: 1.0}\n"
    sampled = "  - !MFACPruningModifier {params: ['re:.*weight'], final_sparsity: 0.8, end_epoch: 1.0}\n"
    cases = {
        full: False,
        full.replace("}", ", end_epoch: 3.0}"): False,
        full.replace("}", ", end_epoch: 2.9}"): True,
        full.replace("}", ", start_epoch: 0.1}"): True,
        full.replace("1.0", "0.9"): True,
        full + sampled: True,
        full + sampled.replace("}", ", fisher_labels: model}"): False,
        full + sampled.replace("MFAC", "GM"): False,
        "modifiers: []\n": True,
    }
    for recipe, expected in cases.items():
        assert RecipeSummary(load_recipe(recipe)).uses_labels(3.0) == expected, recipe
    assert RecipeSummary(load_recipe(full.replace("}", ", end_epoch: 3.0}"))).uses_labels(math.inf)
