"""What in a recipe is legal, and probably not what was meant?

Each doubt is one function with one reason. These are about times and values; ``name_doubts`` has those about names.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from sparsification.check.timeline import Timeline, target_sparsity, window_text
from sparsification.modifiers import (
    ConstantPruningModifier,
    DistillationModifier,
    EpochRangeModifier,
    GradualPruning,
    LayerPruningModifier,
    Modifier,
    PerLayerDistillationModifier,
    QuantizationModifier,
    SetLearningRateModifier,
    SetWeightDecayModifier,
)
from sparsification.pruning.gradual import FROM_PARAM
from sparsification.recipe.loader import Recipe
from sparsification.targets import Targets

NEAR_ZERO = 0.01  # of the highest learning rate, and of the run

Doubt = tuple[Modifier | None, str]  # None: the whole recipe


@dataclass(frozen=True)
class Questioned:
    """What is doubted."""

    recipe: Recipe
    timeline: Timeline
    targets: Targets | None  # of a model that the manager has initialized

    def all(self, *kinds: type) -> Iterator[Modifier]:
        """The modifiers of some kinds that act in the run."""
        for modifier in self.timeline.modifiers:
            if isinstance(modifier, kinds) and self.timeline.acts(modifier):
                yield modifier

    def rates(self, start: float) -> list[tuple[float, float]]:
        """Epochs from ``start`` until the end of the run, and their learning rates where the recipe sets them."""
        shown = self.timeline.shown
        epochs = [shown * index / 1000 for index in range(1000) if shown * index / 1000 > start]
        curves = list(self.timeline.learning_rate([start, *epochs]))
        return list(zip([start, *epochs], curves[0].values, strict=True)) if curves else []


# The run


def _no_length(asked: Questioned) -> Iterator[Doubt]:
    if asked.timeline.length is None:
        yield None, "no EpochRangeModifier sets the length of the run: --num_train_epochs has to fit the other times"


def _unread_variables(asked: Questioned) -> Iterator[Doubt]:
    names = ", ".join(asked.recipe.unread)
    if names:
        are = "variables that nothing reads" if len(asked.recipe.unread) > 1 else "a variable that nothing reads"
        yield None, f"{names}: {are}, so that other values change nothing"


def _outside_the_run(asked: Questioned) -> Iterator[Doubt]:
    length = asked.timeline.length
    for modifier in asked.timeline.modifiers if length else ():
        if isinstance(modifier, EpochRangeModifier):
            continue
        start, end = modifier.window
        if isinstance(modifier, SetLearningRateModifier | SetWeightDecayModifier):
            end = math.inf  # it acts at its start
        if start >= length:
            yield modifier, f"it never acts: it starts at epoch {start:g}, and the run ends at {length:g}"
        elif length < end < math.inf:
            reached = ""
            if isinstance(modifier, GradualPruning) and modifier.init_sparsity != FROM_PARAM:
                goals = [target_sparsity(modifier, final, length) for final, _ in modifier.groups()]
                reached = f", with {max(goals):.1%} pruned in place of {max(f for f, _ in modifier.groups()):.1%}"
            yield modifier, f"its window ends at epoch {end:g}, and the run at {length:g}{reached}"


def _learns_nothing(asked: Questioned) -> Iterator[Doubt]:
    rates = asked.rates(0.0)
    stretches = [list(group) for zero, group in itertools.groupby(rates, lambda pair: pair[1] == 0) if zero]
    for stretch in stretches:
        start, end = stretch[0][0], stretch[-1][0]
        if end - start > NEAR_ZERO * asked.timeline.shown:
            yield None, f"the learning rate is 0 from epoch {start:.3g} to {end:.3g}: nothing is learnt there"


# Pruning


def _pruning_ends_too_late(asked: Questioned) -> Iterator[Doubt]:
    length = asked.timeline.length
    highest = max((rate for _, rate in asked.rates(0.0)), default=0.0)
    for modifier in asked.all(GradualPruning):
        end = modifier.window[1]
        if length and end >= length * (1 - NEAR_ZERO):
            if end <= length:
                yield modifier, f"pruning ends at epoch {end:g} with the run: no weight recovers from the last masks"
            continue
        rest = [rate for _, rate in asked.rates(end)]
        if rest and highest > 0 and not any(math.isnan(rate) or rate > NEAR_ZERO * highest for rate in rest):
            yield (
                modifier,
                f"pruning ends at epoch {end:g}, when the learning rate has reached {rest[0]:.2g} of {highest:.2g} "
                "and does not rise again: no weight recovers from the last masks",
            )


def _pruning_in_one_stroke(asked: Questioned) -> Iterator[Doubt]:
    for modifier in asked.all(GradualPruning):
        start, end = modifier.window
        if start == end:
            yield modifier, f"it prunes all at once at epoch {start:g}: gradual pruning needs a window"
        elif modifier.update_frequency > end - start:
            yield (
                modifier,
                f"update_frequency {modifier.update_frequency:g} is longer than its window of {end - start:g} epochs: "
                "there are two masks, one at the start and one at the end",
            )


def _odd_sparsities(asked: Questioned) -> Iterator[Doubt]:
    for modifier in asked.all(GradualPruning):
        init = modifier.init_sparsity
        pattern = "2:4" if modifier.mask_type == "tensorrt" else modifier.mask_type
        for final, _ in modifier.groups():
            if init != FROM_PARAM and final < init:
                yield (
                    modifier,
                    f"final_sparsity {final:g} is below init_sparsity {init:g}: pruning runs backwards",
                )
            if final == 1:
                yield modifier, "final_sparsity 1 leaves nothing of the weights; 80 % are 0.8, 1 % is 0.01"
            if isinstance(pattern, str) and ":" in pattern:
                n, m = map(int, pattern.split(":"))
                if not math.isclose(final, 1 - n / m, abs_tol=0.01):  # so near, it is completed
                    yield (
                        modifier,
                        f"final_sparsity {final:g} with {pattern}: the pattern is complete at {1 - n / m:g}, "
                        "engines need it complete, and it cannot have more",
                    )


def _zeros_are_let_go(asked: Questioned) -> Iterator[Doubt]:
    for modifier in asked.all(GradualPruning):
        end = modifier.window[1]
        held = any(end <= other.window[0] for other in asked.all(ConstantPruningModifier, GradualPruning))
        if not modifier.leave_enabled and end < (asked.timeline.length or math.inf) and not held:
            yield modifier, f"leave_enabled is false: from epoch {end:g} on zeros fill up, the saved model has none"


def _layers_come_back(asked: Questioned) -> Iterator[Doubt]:
    for modifier in asked.all(LayerPruningModifier):
        if modifier.window[1] <= (asked.timeline.length or math.inf) and math.isfinite(modifier.window[1]):
            yield modifier, f"the layers come back at epoch {modifier.window[1]:g}: the saved model has all of them"


# Quantization and distillation


def _quantized_while_pruned(asked: Questioned) -> Iterator[Doubt]:
    for modifier in asked.all(QuantizationModifier):
        start = modifier.window[0]
        for pruning in asked.all(GradualPruning):
            if pruning.window[1] > start:
                yield (
                    modifier,
                    f"it starts at epoch {start:g}, and pruning goes on until {pruning.window[1]:g}: weights learn to "
                    "live with int8 best after they have settled",
                )


def _ranges_never_frozen(asked: Questioned) -> Iterator[Doubt]:
    length = asked.timeline.length
    for modifier in asked.all(QuantizationModifier):
        frozen = modifier.disable_quantization_observer_epoch
        if frozen is None or frozen < 0:
            yield (
                modifier,
                "disable_quantization_observer_epoch is not given: ranges move until the end, weights never learn "
                "with the final ones, and no checkpoint before it can be exported",
            )
        elif length and frozen >= length:
            yield (
                modifier,
                f"disable_quantization_observer_epoch {frozen:g} is not before the end of the run at {length:g}: "
                "ranges move until then, weights never learn with the final ones",
            )


def _distills_nothing(asked: Questioned) -> Iterator[Doubt]:
    for modifier in asked.all(DistillationModifier, PerLayerDistillationModifier):
        if not modifier.needs_teacher:
            key = "hardness" if isinstance(modifier, DistillationModifier) else "gain"
            yield modifier, f"{key} 0: its term counts nothing, and the teacher is never asked for it"


def _distills_twice(asked: Questioned) -> Iterator[Doubt]:
    distilling = [modifier for modifier in asked.all(DistillationModifier) if modifier.needs_teacher]
    for one, other in itertools.combinations(distilling, 2):
        if max(one.window[0], other.window[0]) < min(one.window[1], other.window[1]):
            yield (
                other,
                f"two at the same time ({window_text(one)} and {window_text(other)}): both terms are added, and the "
                f"task loss counts {one.task_share * other.task_share:.3g}",
            )


QUESTIONS = (
    _no_length,
    _unread_variables,
    _outside_the_run,
    _learns_nothing,
    _pruning_ends_too_late,
    _pruning_in_one_stroke,
    _odd_sparsities,
    _zeros_are_let_go,
    _layers_come_back,
    _quantized_while_pruned,
    _ranges_never_frozen,
    _distills_nothing,
    _distills_twice,
)
