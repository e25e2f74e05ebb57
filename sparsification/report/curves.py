"""Which curves does Trainer's log hold? And how are they drawn?

The log goes with each checkpoint, in trainer_state.json, so that a resumed run has the whole of it.
"""

from collections.abc import Mapping, Sequence

from sparsification.report.results import RunResult
from sparsification.report.svg import COLORS, Line, line_chart, shades, windows_chart
from sparsification.report.tables import Table

History = Sequence[Mapping[str, float]]
MAX_POINTS = 500  # of a curve
_LOSSES = ("task_loss", "distillation_loss", "total_loss")


def curve(history: History, *names: str) -> list[tuple[float, float]]:
    """The values that were logged under one of the names, with their epochs; thinned out if there are very many."""
    points = [(row.get("epoch", 0.0), row[name]) for row in history for name in names if name in row]
    stride = -(-len(points) // MAX_POINTS)
    return points if stride <= 1 else [*points[:-1:stride], points[-1]]


def logged_names(history: History) -> list[str]:
    """All names in the log, sorted: a log that went through a checkpoint has lost their order."""
    return sorted({name for row in history for name in row})


def charts(result: RunResult, history: History) -> list[tuple[str, str]]:
    """Draw what the log holds.

    Returns:
        Titles, with SVG.
    """
    logged = logged_names(history)
    targets = [name for name in logged if name.endswith("/target_sparsity")]
    layers = sorted(
        (name for name in logged if name.startswith("sparsity/layer.")), key=lambda name: int(name.rpartition(".")[2])
    )
    losses = [name for loss in _LOSSES for name in logged if name.endswith(f"/{loss}")] or ["loss"]
    panels = {
        "Scores and zeros in the encoder, percent": [
            *((label, curve(history, f"eval_{name}")) for name, label in result.metrics.items()),
            ("zeros", _percent(curve(history, "sparsity/encoder", "eval_sparsity"))),
            *((f"goal of {name.partition('/')[0]}", _percent(curve(history, name))) for name in targets),
        ],
        "Zeros in each layer, percent": [
            (name.rpartition("/")[2].replace(".", " "), _percent(curve(history, name))) for name in layers
        ],
        "Losses": [(name.rpartition("/")[2].replace("_", " "), curve(history, name)) for name in losses],
        "Teacher agreement, percent of the features": [
            ("", _percent(curve(history, name))) for name in logged if name.endswith("/teacher_agreement")
        ],
        "Learning rate": [("", curve(history, "learning_rate"))],
    }
    end = max([result.epochs, *(row.get("epoch", 0.0) for row in history)])
    drawn = []
    for title, curves in panels.items():
        found = [(label, points) for label, points in curves if points]
        if found:
            colors = shades(len(found)) if "layer" in title else COLORS
            lines = [
                Line(label, points, colors[index % len(colors)], is_goal=label.startswith("goal"))
                for index, (label, points) in enumerate(found)
            ]
            drawn.append((title, line_chart(lines, end, y_end=100.0 if "percent" in title else None)))
    if result.windows:
        windows = [(window.label, window.start, window.end) for window in result.windows]
        drawn.append(("The recipe's modifiers and their time", windows_chart(windows, end)))
    return drawn


def evaluations(result: RunResult, history: History) -> Table:
    """The evaluations of a run: epoch, scores, zeros."""
    scores = {f"eval_{name}": label for name, label in result.metrics.items()}
    rows = [
        [f"{row.get('epoch', 0.0):.2f}", *(f"{row[name]:.2f}" if name in row else "" for name in scores)]
        + [f"{row['eval_sparsity']:.1%}" if "eval_sparsity" in row else ""]
        for row in history
        if any(name in row for name in scores)
    ]
    return ["epoch", *scores.values(), "zeros"], rows


def _percent(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(epoch, 100 * value) for epoch, value in points]
