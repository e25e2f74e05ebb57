"""Lint rules for valid but suspicious recipes: times and values of several modifiers.

Each rule is a function that yields warnings. Rules about the keys of one modifier are in its ``warnings``, rules about
names of parameters in ``pattern_rules``.
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
    """The recipe to check, and what is known of its run and model."""

    recipe: Recipe
    timeline: Timeline
    targets: Targets | None  # of a model that the manager has initialized

    def acting(self) -> list[Modifier]:
        """Return the modifiers that start before the end of the run, by time."""
        return [modifier for modifier in self.timeline.modifiers if self.timeline.acts(modifier)]

    def pruning(self) -> list[Modifier]:
        """Return those of ``acting`` that prune on a schedule."""
        return [modifier for modifier in self.acting() if modifier.final_sparsities]

    def rates(self, start: float) -> list[tuple[float, float]]:
        """Return epochs from ``start`` to the end of the run with their learning rates; empty if none is set."""
        shown = self.timeline.shown
        epochs = [shown * index / 1000 for index in range(1000) if shown * index / 1000 > start]
        curves = list(self.timeline.learning_rate([start, *epochs]))
        return list(zip([start, *epochs], curves[0].values, strict=True)) if curves else []


# The run


def _no_length(ctx: LintContext) -> Iterator[LintWarning]:
    if ctx.timeline.length is None:
        yield None, "no EpochRangeModifier sets the length of the run; --num_train_epochs must fit the other times"


def _unused_variables(ctx: LintContext) -> Iterator[LintWarning]:
    names = ", ".join(ctx.recipe.unused_variables)
    if names:
        kind = "unused variables" if len(ctx.recipe.unused_variables) > 1 else "unused variable"
        yield None, f"{kind} {names}: changing the value has no effect"


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
            yield modifier, f"it has no effect: it starts at epoch {start:g}, but the run ends at epoch {length:g}"
        elif length < end < math.inf:
            reached = ""
            targets = [modifier.target_sparsity(final, length) for final in modifier.final_sparsities]
            if targets and not any(map(math.isnan, targets)):
                reached = f"; sparsity reaches {max(targets):.1%} instead of {max(modifier.final_sparsities):.1%}"
            yield modifier, f"it ends at epoch {end:g}, but the run ends at epoch {length:g}{reached}"


def _learning_rate_is_zero(ctx: LintContext) -> Iterator[LintWarning]:
    rates = ctx.rates(0.0)
    stretches = [list(group) for zero, group in itertools.groupby(rates, lambda pair: pair[1] == 0) if zero]
    for stretch in stretches:
        start, end = stretch[0][0], stretch[-1][0]
        if end - start > NEAR_ZERO * ctx.timeline.shown:
            yield None, f"the learning rate is 0 from epoch {start:.3g} to {end:.3g}"


# Pruning


def _pruning_ends_too_late(ctx: LintContext) -> Iterator[LintWarning]:
    length = ctx.timeline.length
    highest = max((rate for _, rate in ctx.rates(0.0)), default=0.0)
    for modifier in ctx.pruning():
        end = modifier.active_range[1]
        if length and end >= length * (1 - NEAR_ZERO):
            if end <= length:
                yield modifier, f"pruning ends with the run at epoch {end:g}: no training follows the last masks"
            continue
        rest = [rate for _, rate in ctx.rates(end)]
        if rest and highest > 0 and not any(math.isnan(rate) or rate > NEAR_ZERO * highest for rate in rest):
            yield (
                modifier,
                f"pruning ends at epoch {end:g}, when the learning rate has dropped to {rest[0]:.2g} of {highest:.2g} "
                "and does not rise again: weights cannot recover from the last masks",
            )


def _pruned_weights_train_again(ctx: LintContext) -> Iterator[LintWarning]:
    masking = [modifier for modifier in ctx.acting() if modifier.masks_weights]
    for modifier in ctx.pruning():
        end = modifier.mask_end
        held = any(end <= other.active_range[0] for other in masking)
        if end < (ctx.timeline.length or math.inf) and not held:
            yield modifier, f"leave_enabled is false: weights regrow from epoch {end:g} on, the saved model is dense"


def _modifiers_own(ctx: LintContext) -> Iterator[LintWarning]:
    """Warnings of each modifier about its own keys."""
    for modifier in ctx.acting():
        for text in modifier.warnings(ctx.timeline.length):
            yield modifier, text


def _sampling_takes_longer_than_an_epoch(ctx: LintContext) -> Iterator[LintWarning]:
    for modifier in ctx.pruning():
        epochs = ctx.timeline.sampled_epochs(modifier)
        if epochs is not None and (total := epochs * ctx.timeline.num_masks(modifier)) > 1:
            yield (
                modifier,
                f"the gradients for all masks cost as much as {total:.2g} epochs of training: lower num_grads or "
                "batch_size of grad_sampler_kwargs, or make fewer masks (update_frequency)",
            )


# Quantization, averages and distillation


def _quantized_while_pruned(ctx: LintContext) -> Iterator[LintWarning]:
    for modifier in ctx.acting():
        start = modifier.active_range[0] if modifier.quantizes else math.inf
        for pruning in ctx.pruning():
            if pruning.active_range[1] > start:
                yield (
                    modifier,
                    f"it starts at epoch {start:g}, but pruning ends at epoch {pruning.active_range[1]:g}: "
                    "start quantization after pruning",
                )


def _averaged_while_pruned(ctx: LintContext) -> Iterator[LintWarning]:
    for modifier in ctx.acting():
        start, end = modifier.active_range
        changing = [other for other in ctx.acting() if other.final_sparsities or other.layer_patterns]
        last = max((other.final_epoch for other in changing if other.active_range[0] < end), default=0.0)
        if modifier.averages_weights and last > start:
            yield (
                modifier,
                f"it starts at epoch {start:g}, but masks or layers change until epoch {last:g}: the average is one of "
                "different models; start it after pruning",
            )


def _distills_twice(ctx: LintContext) -> Iterator[LintWarning]:
    distilling = [modifier for modifier in ctx.acting() if modifier.needs_teacher and modifier.task_share != 1]
    for one, other in itertools.combinations(distilling, 2):
        if max(one.active_range[0], other.active_range[0]) < min(one.active_range[1], other.active_range[1]):
            yield (
                other,
                f"two distillations overlap ({window_text(one)} and {window_text(other)}): both terms are added, "
                f"and the factor of the task loss is {one.task_share * other.task_share:.3g}",
            )


RULES = (
    _no_length,
    _unused_variables,
    _outside_the_run,
    _learning_rate_is_zero,
    _pruning_ends_too_late,
    _pruned_weights_train_again,
    _sampling_takes_longer_than_an_epoch,
    _modifiers_own,
    _quantized_while_pruned,
    _averaged_while_pruned,
    _distills_twice,
)
