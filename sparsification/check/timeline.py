"""Timeline of a recipe over the epochs: active ranges, target sparsity and learning rate, as text and as a picture.

All numbers come from the modifiers, as in training. No model is needed.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsification.base import Modifier, TrainingStep
from sparsification.errors import SparsificationError
from sparsification.recipe.summary import RecipeSummary

ASSUMED_STEPS = 1000  # optimizer steps per epoch if the run is not known
TENTH = 5  # columns


class PlotError(SparsificationError, RuntimeError):
    """The picture cannot be written."""


@dataclass(frozen=True)
class Curve:
    """A quantity over the run."""

    label: str
    unit: str  # "%" or "rate"
    values: tuple[float, ...]  # nan where the recipe does not set the quantity


class Timeline:
    """Timeline of one recipe.

    Args:
        summary: of the recipe.
        steps_per_epoch: optimizer steps, if known.
        num_examples: training features, if known.
    """

    def __init__(self, summary: RecipeSummary, steps_per_epoch: int | None = None, num_examples: int | None = None):
        self.summary = summary
        self.steps_per_epoch = steps_per_epoch
        self.num_examples = num_examples
        self.length = summary.max_epochs if summary.max_epochs > 0 else None  # epochs; None: not set by the recipe
        ends = [time for m in summary.modifiers for time in m.active_range if math.isfinite(time)]
        self.shown = self.length or max(ends, default=0.0) or 1.0  # epochs
        self.modifiers = sorted(summary.modifiers, key=lambda modifier: modifier.active_range)

    def training_step(self, epoch: float) -> TrainingStep:
        """Return the step at an epoch."""
        steps = self.steps_per_epoch or ASSUMED_STEPS
        return TrainingStep(round(epoch * steps), steps)

    def number(self, modifier: Modifier) -> int:
        """Return the number of a modifier in lists, from 1, by time."""
        return 1 + next(index for index, other in enumerate(self.modifiers) if other is modifier)

    def acts(self, modifier: Modifier) -> bool:
        """Tell whether a modifier starts before the end of the run."""
        return self.length is None or modifier.active_range[0] < self.length

    def num_masks(self, modifier: Modifier) -> float:
        """Return the number of new masks of a modifier with ``final_sparsities``; the last one is always at the end."""
        now = self.training_step(0.0)
        start, end = (now.step_at(epoch) for epoch in modifier.active_range)
        return -(-(end - start) // max(now.step_at(modifier.update_frequency), 1)) + 1

    def sampled_epochs(self, modifier: Modifier) -> float | None:
        """Return the cost of the gradients that a modifier samples for one mask, None if it is none or not known.

        The unit is a forward and a backward pass over all training features.
        """
        cost = modifier.sampled_gradients()
        if cost is None:
            return None
        if cost.batch_size is None:
            return cost.num_batches / self.steps_per_epoch if self.steps_per_epoch else None
        return cost.num_batches * cost.batch_size / self.num_examples if self.num_examples else None

    def sparsity(self, epochs: Sequence[float]) -> Iterator[Curve]:
        """Yield the target sparsity in percent: for each pruning modifier, one curve per final sparsity."""
        for modifier in self.modifiers:
            if self.acts(modifier):
                finals = sorted(set(modifier.final_sparsities))
                for final in finals:
                    label = f"{self.number(modifier)} sparsity" + (f" to {final:.4g}" if len(finals) > 1 else "")
                    yield Curve(label, "%", tuple(100 * modifier.target_sparsity(final, epoch) for epoch in epochs))

    def learning_rate(self, epochs: Sequence[float]) -> Iterator[Curve]:
        """Yield the learning rate of each parameter group that the recipe names; none if it sets none."""
        rates = [modifier for modifier in self.modifiers if modifier.sets_learning_rate]
        groups = {group for modifier in rates for group in modifier.lr_groups or [0]}
        for group in sorted(groups):
            values = tuple(self.summary.learning_rate(self.training_step(epoch), group, math.nan) for epoch in epochs)
            yield Curve("rate" if groups == {0} else f"rate, group {group}", "rate", values)


def name_of(modifier: Modifier) -> str:
    """Return the short name of a modifier."""
    return type(modifier).__name__.removesuffix("Modifier")


def window_text(modifier: Modifier) -> str:
    """Describe the active range of a modifier, in epochs."""
    start, end = modifier.active_range
    if modifier.acts_at_start:
        return f"from {start:g}"
    return f"from {start:g}" if math.isinf(end) else f"{start:g} to {end:g}"


def text_lines(timeline: Timeline) -> list[str]:
    """Draw active ranges as bars of 50 columns, with sparsity and learning rate at every tenth of the run below."""
    epochs = [timeline.shown * tenth / 10 for tenth in range(11)]
    rows = [("epoch", _cells(f"{epoch:.3g}" for epoch in epochs))]
    rows += [
        (f"{timeline.number(modifier)} {name_of(modifier)}", _bar(modifier, timeline.shown))
        for modifier in timeline.modifiers
    ]
    rows += [(f"{curve.label}, %", _cells(map(_percent, curve.values))) for curve in timeline.sparsity(epochs)]
    for curve in timeline.learning_rate(epochs):
        # One power of ten for the whole row keeps the numbers short.
        highest = max((value for value in curve.values if 0 < value < math.inf), default=1.0)
        power = math.floor(math.log10(highest))
        rows.append((f"{curve.label}, 1e{power}", _cells(_rate(value / 10**power) for value in curve.values)))
    width = max(len(label) for label, _ in rows) + 2
    return [f"{label:<{width}}{cells}".rstrip() for label, cells in rows]


def _cells(texts: Iterator[str]) -> str:
    return "".join(f"{text:<{TENTH}}" for text in texts)


def _percent(value: float) -> str:
    return "?" if math.isnan(value) else "100" if value > 99.95 else f"{value:.1f}" if value else "0"


def _rate(value: float) -> str:
    return "-" if math.isnan(value) else "0" if value == 0 else "<.01" if value < 0.005 else f"{value:.2f}"


def _bar(modifier: Modifier, shown: float) -> str:
    start, end = modifier.active_range
    columns = 10 * TENTH
    if start >= shown and start > 0:
        return f"{'after the run' if start > shown else 'at the end of the run':>{columns}}"
    first = min(int(start / shown * columns + 1e-6), columns - 1)
    if modifier.acts_at_start or start == end:
        return " " * first + "|"
    last = columns if end >= shown else max(math.ceil(end / shown * columns - 1e-6), first + 1)
    return " " * first + "=" * (last - first)


def draw(timeline: Timeline, title: str, path: Path) -> None:
    """Draw sparsity, learning rate and active ranges over the epochs, one below the other.

    Args:
        timeline: of the recipe.
        title: of the picture.
        path: of the PNG file.

    Raises:
        PlotError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # takes a second, which a check without a picture does not need

    epochs = [timeline.shown * index / 1000 for index in range(1001)]
    panels = [("sparsity, %", curves) for curves in [list(timeline.sparsity(epochs))] if curves]
    panels += [("learning rate", curves) for curves in [list(timeline.learning_rate(epochs))] if curves]
    bars = [m for m in timeline.modifiers if not m.run_length] or timeline.modifiers
    heights = [2.0] * len(panels) + [0.5 + 0.32 * len(bars)]
    figure = Figure(figsize=(9, 1.3 + sum(heights)), layout="constrained")
    figure.suptitle(
        title if timeline.summary.sets_learning_rate else f"{title} (learning rate from the command line)", fontsize=11
    )
    axes = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
    for axis, (label, curves) in zip(axes, panels, strict=False):
        for curve in curves:
            axis.plot(epochs, curve.values, label=curve.label, linewidth=1.8)
        axis.set_ylabel(label)
        axis.margins(y=0.08)
        axis.set_ylim(0, 105 if curves[0].unit == "%" else None)
        axis.grid(alpha=0.3)
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
        if len(curves) > 1:
            axis.legend(fontsize=8)
    _draw_bars(axes[-1], timeline, bars)
    axes[-1].set_xlim(0, timeline.shown)
    axes[-1].set_xlabel("epoch")
    figure.align_ylabels(axes[:-1])
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise PlotError(f"--plot {path}: {error}") from error


def _draw_bars(axis, timeline: Timeline, modifiers: Sequence[Modifier]) -> None:
    axis.set_ylim(len(modifiers) - 0.4, -0.6)  # the first one on top
    axis.set_yticks(range(len(modifiers)), [f"{timeline.number(m)} {name_of(m)}" for m in modifiers], fontsize=9)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", alpha=0.3)
    for row, modifier in enumerate(modifiers):
        start, end = modifier.active_range
        if start > timeline.shown:
            axis.annotate(
                f"{window_text(modifier)}: after the run  ", (timeline.shown, row), ha="right", va="center", fontsize=9
            )
            continue
        end = start if modifier.acts_at_start else min(end, timeline.shown)
        # A minimum width keeps instantaneous modifiers visible.
        axis.barh(row, max(end - start, timeline.shown / 200), left=start, height=0.6, color=f"C{row % 10}", alpha=0.5)
        if end - start > 0.3 * timeline.shown:
            x, align = (start + end) / 2, "center"
        elif end < 0.75 * timeline.shown:
            x, align = max(end, start + timeline.shown / 200), "left"
        else:
            x, align = start, "right"
        axis.annotate(f"  {window_text(modifier)}  ", (x, row), ha=align, va="center", fontsize=9)
