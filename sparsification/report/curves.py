"""Curves of a run's report, taken from Trainer's log.

The log is part of each checkpoint (trainer_state.json), so the log of a resumed run is complete.
"""

from collections.abc import Sequence

from sparsification.report.plots import Line, Panel, draw_panel, draw_spans, to_svg
from sparsification.report.results import History, RunResult
from sparsification.report.tables import Table

Points = list[tuple[float, float]]  # (epoch, value)
MAX_POINTS = 500  # of a curve
_LOSSES = ("total_loss", "task_loss", "distillation_loss")


def curve(history: History, *names: str) -> Points:
    """The values logged under one of the names, with their epochs, thinned out to about ``MAX_POINTS``."""
    points = [(row.get("epoch", 0.0), row[name]) for row in history for name in names if name in row]
    stride = -(-len(points) // MAX_POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def logged_names(history: History) -> list[str]:
    """All names in the log, sorted, since a log that was read from a checkpoint is not in the order of logging."""
    return sorted({name for row in history for name in row})


def last_epoch(result: RunResult, history: History) -> float:
    """The epoch at which the run ended."""
    return max([result.epochs, *(row.get("epoch", 0.0) for row in history)])


def panels(result: RunResult, history: History) -> list[Panel]:
    """What the log has to show: scores and sparsity first, each on an axis of its own."""
    logged = logged_names(history)
    layers = sorted(
        (name for name in logged if name.startswith("sparsity/layer.")), key=lambda name: int(name.rpartition(".")[2])
    )
    losses = [name for loss in _LOSSES for name in logged if name.endswith(f"/{loss}")] or ["loss"]
    agreement = [name for name in logged if name.endswith("/teacher_agreement")]
    found = [
        Panel(f"{' and '.join(result.metrics.values())} on the evaluation data", _scores(result, history)),
        Panel("Encoder sparsity, %", _sparsity(history, logged), is_share=True),
        Panel(
            "Training loss", _distinct([Line(_words(name), curve(history, name)) for name in losses]), from_zero=True
        ),
        Panel("Learning rate", [Line("", curve(history, "learning_rate"))], from_zero=True),
        Panel(
            "Sparsity of each encoder layer, %",
            [Line(_words(name), _percent(curve(history, name))) for name in layers],
            is_share=True,
            by_layer=True,
        ),
        Panel(
            "Predictions equal to the teacher's, % of the features",
            [Line("", _percent(curve(history, name))) for name in agreement],
            is_share=True,
        ),
    ]
    return [panel for panel in found if any(line.points for line in panel.lines if not line.is_reference)]


def charts(result: RunResult, history: History) -> list[tuple[str, str]]:
    """Draw the log and the schedule of the recipe.

    Returns:
        Titles with SVG.
    """
    end = last_epoch(result, history)
    drawn = [(panel.title, to_svg(draw_panel(panel, end), panel.title)) for panel in panels(result, history)]
    if result.windows:
        title = "Schedule of the recipe"
        spans = [(window.label, window.start, window.end) for window in result.windows]
        drawn.append((title, to_svg(draw_spans(spans, end), title)))
    return drawn


def evaluations(result: RunResult, history: History) -> Table:
    """Table of a run's evaluations: epoch, scores, sparsity."""
    scores = {f"eval_{name}": label for name, label in result.metrics.items()}
    rows = [
        [f"{row.get('epoch', 0.0):.2f}", *(f"{row[name]:.2f}" if name in row else "" for name in scores)]
        + [f"{row['eval_sparsity']:.1%}" if "eval_sparsity" in row else ""]
        for row in history
        if any(name in row for name in scores)
    ]
    return ["epoch", *scores.values(), "sparsity"], rows


def _scores(result: RunResult, history: History) -> list[Line]:
    """A curve for each metric, the one that counts most first, and the teacher's score in the latter."""
    curves = [(label, curve(history, f"eval_{name}")) for name, label in reversed(result.metrics.items())]
    lines = [Line(label, points) for label, points in curves if points]
    teacher = result.model("teacher")
    if lines and teacher is not None and lines[0].label in teacher.scores:
        label = lines[0].label
        ends = [(epoch, teacher.scores[label]) for epoch in (0.0, last_epoch(result, history))]
        lines.append(Line(f"{label} of the teacher", ends, is_reference=True))
    return lines


def _sparsity(history: History, logged: Sequence[str]) -> list[Line]:
    targets = [name for name in logged if name.endswith("/target_sparsity")]
    lines = [Line("encoder", _percent(curve(history, "sparsity/encoder", "eval_sparsity")))]
    for name in targets:
        label = "target" if len(targets) == 1 else f"target of {name.partition('/')[0].replace('Modifier', '')}"
        lines.append(Line(label, _percent(curve(history, name)), is_reference=True))
    if not any(value for line in lines for _, value in line.points):
        return []  # the recipe prunes nothing
    return [line for line in lines if line.points]


def _distinct(lines: Sequence[Line]) -> list[Line]:
    """The curves without those that a later one would cover: with hardness 1, the distillation loss is the total."""
    return [
        line for index, line in enumerate(lines) if line.points not in [other.points for other in lines[index + 1 :]]
    ]


def _words(name: str) -> str:
    return name.rpartition("/")[2].replace("_", " ").replace(".", " ")


def _percent(points: Points) -> Points:
    return [(epoch, 100 * value) for epoch, value in points]
