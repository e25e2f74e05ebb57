"""Report of ``python -m sparsification check``: what a recipe will do, and warnings for suspicious settings."""

import math
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sparsification.base import Modifier
from sparsification.check import pattern_rules, rules
from sparsification.check.timeline import PlotError, Timeline, draw, text_lines, window_text
from sparsification.errors import ManagerError, SparsificationError
from sparsification.recipe.document import RecipeError
from sparsification.recipe.loader import load_recipe
from sparsification.recipe.model import Recipe
from sparsification.recipe.summary import RecipeSummary
from sparsification.recipe.types import show
from sparsification.targets import Targets

if TYPE_CHECKING:
    from sparsification.check.estimate import ModelEstimate

WIDTH = 80  # columns
OK, WRONG, EXIT_WARNINGS = 0, 1, 2  # exit codes
_LABEL = 16  # columns


class CheckError(SparsificationError, ValueError):
    """A recipe is not valid or does not fit the model; the message has one line per problem."""


def check(
    source: str,
    recipe_args: str | None = None,
    *,
    model_name: str | None = None,
    num_examples: int | None = None,
    batch_size: int | None = None,
    plot: Path | None = None,
    modifiers: Mapping[str, type[Modifier]] | None = None,
) -> tuple[str, list[str]]:
    """Describe what a recipe will do.

    Args:
        source: the recipe's file.
        recipe_args: its overrides, as on run_qa.py's command line.
        model_name: a model's folder or hub name; None: parameters are not checked.
        num_examples: training features; with ``batch_size``, times are also given in steps.
        batch_size: features per optimizer step, of all devices and accumulated batches together.
        plot: file to draw a picture of the timeline to.
        modifiers: the dataclass of each ``!Name``; default: ``MODIFIERS``.

    Returns:
        The report, and the warnings at its end.

    Raises:
        CheckError: the recipe or model is not valid, they do not fit, or the picture cannot be drawn.
    """
    try:
        recipe = load_recipe(source, recipe_args, modifiers=modifiers)
        steps = math.ceil(num_examples / batch_size) if num_examples and batch_size else None
        timeline = Timeline(RecipeSummary(recipe), steps, num_examples)
        sections = [_about_run(recipe, timeline), _about_modifiers(recipe, timeline), text_lines(timeline)]
        targets = None
        if model_name:
            # Imported only if needed: importing transformers takes seconds.
            from sparsification.check.estimate import ModelError, build_model, estimate_model

            try:
                model, has_weights = build_model(model_name)
            except ModelError as error:
                raise CheckError(str(error)) from error
            targets = Targets(model)
            sections.append(_about_model(estimate_model(timeline, model, targets, model_name, has_weights)))
        warnings = lint(recipe, timeline, targets)
        if plot:
            draw(timeline, recipe.source, plot)
            sections.append([f"Picture: {plot}"])
    except (RecipeError, ManagerError, PlotError) as error:
        raise CheckError(str(error)) from error
    sections.append([f"warning: {text}" for text in warnings] or ["No warnings."])
    return "\n\n".join("\n".join(lines) for lines in sections), warnings


def lint(recipe: Recipe, timeline: Timeline, targets: Targets | None = None) -> list[str]:
    """Find valid but suspicious settings.

    Args:
        recipe: as it was read.
        timeline: of the recipe.
        targets: of a model that the manager has initialized, made before that; None: rules that need a model are left
            out.

    Returns:
        One sentence per warning, with its line in the recipe, in the order of the lines.
    """
    context = rules.LintContext(recipe, timeline, targets)
    found = [warning for rule in rules.RULES + pattern_rules.RULES for warning in rule(context)]
    if targets is not None:
        found += [warning for rule in pattern_rules.RULES_WITH_MODEL for warning in rule(context, targets)]
    lines = {id(modifier): line for modifier, line in zip(recipe.modifiers, recipe.lines, strict=True)}
    placed = [(lines[id(modifier)] if modifier else 0, modifier, text) for modifier, text in found]
    return [
        f"{recipe.source}, line {line}: {type(modifier).__name__}: {text}" if modifier else f"{recipe.source}: {text}"
        for line, modifier, text in sorted(placed, key=lambda entry: entry[0])
    ]


def _entry(label: str, text: str) -> list[str]:
    """Format a label with a text beside it, wrapped to ``WIDTH``."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{label:<{_LABEL}}",
        subsequent_indent=" " * _LABEL,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _about_run(recipe: Recipe, timeline: Timeline) -> list[str]:
    length, steps = timeline.length, timeline.steps_per_epoch
    run = f"{length:g} epochs" if length else "--num_train_epochs"
    if steps:
        run += f"; {steps:,} steps per epoch" + (f", {math.ceil(length * steps):,} in total" if length else "")
    rates = "from the recipe" if timeline.summary.sets_learning_rate else "from the command line"
    variables = ", ".join(f"{name}={show(value)}" for name, value in recipe.variables.items())
    lines = [recipe.source, *_entry("Run", run), *_entry("Learning rate", rates)]
    if recipe.stages:
        lines += _entry("Stages", ", ".join(recipe.stages))
    return lines + _entry("Variables", variables or "none")


def _about_modifiers(recipe: Recipe, timeline: Timeline) -> list[str]:
    given = {id(modifier): keys for modifier, keys in zip(recipe.modifiers, recipe.explicit_keys, strict=True)}
    lines = ["Modifiers, times in epochs" if recipe.modifiers else "No modifiers"]
    for modifier in timeline.modifiers:
        number = timeline.number(modifier)
        head = f"{number:>2} {type(modifier).__name__:<31}{window_text(modifier)}"
        if timeline.steps_per_epoch:
            head += f"  ({_in_steps(modifier, timeline)})"
        lines.append(head)
        for text in (", ".join(_keys(modifier, given[id(modifier)])), _sampling(modifier, timeline)):
            lines += textwrap.wrap(text, WIDTH, initial_indent="   ", subsequent_indent="   ")
    return lines


def _keys(modifier: Modifier, given: list[str]) -> Iterator[str]:
    """Yield the keys that the recipe writes for a modifier, without its times."""
    for key in given:
        value = getattr(modifier, key)
        if key in ("start_epoch", "end_epoch") or (key, value) == ("update_frequency", -1):
            continue
        if isinstance(value, list) and len(", ".join(map(str, value))) > 40:
            yield f"{len(value)} {key}"
        elif isinstance(value, list):
            yield f"{key}=[{','.join(map(str, value))}]"
        else:
            yield f"{key}={value:g}" if isinstance(value, float) else f"{key}={show(value)}"


def _in_steps(modifier: Modifier, timeline: Timeline) -> str:
    now = timeline.training_step(0.0)
    start, end = (now.step_at(epoch) for epoch in modifier.active_range)
    text = f"from step {start:,}" if math.isinf(end) else f"steps {start:,} to {end:,}"
    if modifier.final_sparsities:
        text += f", {timeline.num_masks(modifier):,} masks"
    return text


def _sampling(modifier: Modifier, timeline: Timeline) -> str:
    """Describe the gradients that a modifier samples for its masks; empty if it samples none."""
    cost = modifier.sampled_gradients()
    if cost is None:
        return ""
    masks, epochs = timeline.num_masks(modifier), timeline.sampled_epochs(modifier)
    size = "training's size" if cost.batch_size is None else f"{cost.batch_size:,}"
    text = f"gradients of {cost.num_batches:,} batches of {size} for each of {masks:,} masks"
    return text if epochs is None else f"{text}: as much as {epochs:.2g} epochs each, {epochs * masks:.2g} in all"


def _about_model(outcome: "ModelEstimate") -> list[str]:
    before, after = outcome.num_parameters
    weights = "saved weights" if outcome.has_weights else "configuration only, random weights"
    lines = _entry("Model", f"{outcome.name}, {weights}")
    for match in outcome.matches:
        lines += _entry(f"{match.number} matches", f"'{match.pattern}'")
        count = f"{len(match.names):,} parameters, {match.num_weights:,} weights"
        if match.names:
            count += f": {match.names[0]}" + (f" to {match.names[-1]}" if len(match.names) > 1 else "")
        lines += _entry("", count)
    for number, num_bytes in outcome.sampling_bytes.items():
        lines += _entry(f"{number} memory", f"about {_size(num_bytes)} beside the model while it computes a mask")
    for path, indices in outcome.dropped.items():
        lines += _entry("Dropped", f"layers {', '.join(map(str, indices))} of {path}")
    if outcome.quantized:
        lines += _entry("Quantized", ", ".join(f"{count} {kind}" for kind, count in outcome.quantized.items()))
    lines += _entry("Parameters", f"{after:,} at the end" + (f", {before:,} at the start" if after != before else ""))
    lines += _entry("Zeros", f"{outcome.num_zeros:,} at the end, {outcome.num_zeros / after:.1%} of all parameters")
    for number_format, (plain, gzipped) in outcome.sizes.items():
        lines += _entry(f"ONNX, {number_format}", f"about {_size(plain)}; gzipped about {_size(gzipped)}")
    return lines + _entry("", "(gzip: size of random weights of this sparsity; see sparsification/check/estimate.py)")


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e6:.3g} MB" if num_bytes < 1e9 else f"{num_bytes / 1e9:.3g} GB"
