"""What in a recipe is legal, and probably not what was meant?

Each doubt is one function with one reason. These are about times and values of several modifiers; a modifier says
itself what is odd in its own keys, in ``warnings``; ``pattern_rules`` has those about names.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from sparsification.base import Modifier
from sparsification.check.timeline import Timeline, window_text
from sparsification.recipe.model import Recipe
from sparsification.targets import Targets

NEAR_ZERO = 0.01  # of the highest learning rate, and of the run

LintWarning = tuple[Modifier | None, str]  # None: the whole recipe


@dataclass(frozen=True)
class LintContext:
    """What is doubted."""

    recipe: Recipe
    timeline: Timeline
    targets: Targets | None  # of a model that the manager has initialized

    def acting(self) -> list[Modifier]:
        """The modifiers that act in the run, by time."""
        return [modifier for modifier in self.timeline.modifiers if self.timeline.acts(modifier)]

    def pruning(self) -> list[Modifier]:
        """Those of them that prune on a schedule."""
        return [modifier for modifier in self.acting() if modifier.final_sparsities]

    def rates(self, start: float) -> list[tuple[float, float]]:
        """Epochs from ``start`` until the end of the run, and their learning rates where the recipe sets them."""
        shown = self.timeline.shown
        epochs = [shown * index / 1000 for index in range(1000) if shown * index / 1000 > start]
        curves = list(self.timeline.learning_rate([start, *epochs]))
        return list(zip([start, *epochs], curves[0].values, strict=True)) if curves else []


# The run


def _no_length(ctx: LintContext) -> Iterator[LintWarning]:
    if ctx.timeline.length is None:
        yield None, "no EpochRangeModifier sets the length of the run: --num_train_epochs has to fit the other times"


def _unused_variables(ctx: LintContext) -> Iterator[LintWarning]:
    names = ", ".join(ctx.recipe.unused_variables)
    if names:
        are = (
            "variables that nothing reads" if len(ctx.recipe.unused_variables) > 1 else "a variable that nothing reads"
        )
        yield None, f"{names}: {are}, so that other values change nothing"


def _outside_the_run(ctx: LintContext) -> Iterator[LintWarning]:
    length = ctx.timeline.length
    if not length:
        return
    for modifier in ctx.timeline.modifiers:
        if modifier.run_length:
            continue
        start, end = modifier.active_range
        if modifier.acts_at_start:
            end = math.inf
        if start >= length:
            yield modifier, f"it never acts: it starts at epoch {start:g}, and the run ends at {length:g}"
        elif length < end < math.inf:
            reached = ""
            targets = [modifier.target_sparsity(final, length) for final in modifier.final_sparsities]
            if targets and not any(map(math.isnan, targets)):
                reached = f", with {max(targets):.1%} pruned in place of {max(modifier.final_sparsities):.1%}"
            yield modifier, f"its window ends at epoch {end:g}, and the run at {length:g}{reached}"


def _learns_nothing(ctx: LintContext) -> Iterator[LintWarning]:
    rates = ctx.rates(0.0)
    stretches = [list(group) for zero, group in itertools.groupby(rates, lambda pair: pair[1] == 0) if zero]
    for stretch in stretches:
        start, end = stretch[0][0], stretch[-1][0]
        if end - start > NEAR_ZERO * ctx.timeline.shown:
            yield None, f"the learning rate is 0 from epoch {start:.3g} to {end:.3g}: nothing is learnt there"


# Pruning


def _pruning_ends_too_late(ctx: LintContext) -> Iterator[LintWarning]:
    length = ctx.timeline.length
    highest = max((rate for _, rate in ctx.rates(0.0)), default=0.0)
    for modifier in ctx.pruning():
        end = modifier.active_range[1]
        if length and end >= length * (1 - NEAR_ZERO):
            if end <= length:
                yield modifier, f"pruning ends at epoch {end:g} with the run: no weight recovers from the last masks"
            continue
        rest = [rate for _, rate in ctx.rates(end)]
        if rest and highest > 0 and not any(math.isnan(rate) or rate > NEAR_ZERO * highest for rate in rest):
            yield (
                modifier,
                f"pruning ends at epoch {end:g}, when the learning rate has reached {rest[0]:.2g} of {highest:.2g} "
                "and does not rise again: no weight recovers from the last masks",
            )


def _zeros_are_let_go(ctx: LintContext) -> Iterator[LintWarning]:
    masking = [modifier for modifier in ctx.acting() if modifier.masks_weights]
    for modifier in ctx.pruning():
        end = modifier.mask_end
        held = any(end <= other.active_range[0] for other in masking)
        if end < (ctx.timeline.length or math.inf) and not held:
            yield modifier, f"leave_enabled is false: from epoch {end:g} on zeros fill up, the saved model has none"


def _modifiers_own(ctx: LintContext) -> Iterator[LintWarning]:
    """What a modifier says of its keys alone."""
    for modifier in ctx.acting():
        for text in modifier.warnings(ctx.timeline.length):
            yield modifier, text


# Quantization and distillation


def _quantized_while_pruned(ctx: LintContext) -> Iterator[LintWarning]:
    for modifier in ctx.acting():
        start = modifier.active_range[0] if modifier.quantizes else math.inf
        for pruning in ctx.pruning():
            if pruning.active_range[1] > start:
                yield (
                    modifier,
                    f"it starts at epoch {start:g}, and pruning goes on until {pruning.active_range[1]:g}: weights "
                    "learn to live with int8 best after they have settled",
                )


def _distills_twice(ctx: LintContext) -> Iterator[LintWarning]:
    distilling = [modifier for modifier in ctx.acting() if modifier.needs_teacher and modifier.task_share != 1]
    for one, other in itertools.combinations(distilling, 2):
        if max(one.active_range[0], other.active_range[0]) < min(one.active_range[1], other.active_range[1]):
            yield (
                other,
                f"two at the same time ({window_text(one)} and {window_text(other)}): both terms are added, and the "
                f"task loss counts {one.task_share * other.task_share:.3g}",
            )


RULES = (
    _no_length,
    _unused_variables,
    _outside_the_run,
    _learns_nothing,
    _pruning_ends_too_late,
    _zeros_are_let_go,
    _modifiers_own,
    _quantized_while_pruned,
    _distills_twice,
)
