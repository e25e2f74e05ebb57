"""Pareto plots of several runs: score against latency and against file size, with the front of the best models."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypedDict

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg, RendererAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation, Text
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox

from sparsification.report.plots import COLORS, GREY, style
from sparsification.report.results import ModelResult, RunResult


class _LineStyle(TypedDict):
    color: str
    linewidth: float
    linestyle: tuple[float, Sequence[float]]
    zorder: float


PANEL_SIZE = (4.6, 3.5)  # of one plot, inches
# name of a model in a report -> what runs it, and its marker
ENGINES = {
    "teacher": ("PyTorch", "o"),
    "student": ("PyTorch", "o"),
    "model": ("PyTorch", "o"),  # of a run without a recipe
    "ONNX": ("ONNX Runtime", "s"),
    "ONNX sparse": ("ONNX Runtime, sparse", "D"),
}
_LOG_FROM = 8  # ratio of the largest to the smallest value from which the axis is logarithmic
POINT_RADIUS = 5  # room that a label leaves around each point, points of 1/72 inch
_OFFSETS = [(0, 8), (0, -8), (8, 0), (-8, 0), (6, 6), (-6, 6), (6, -6), (-6, -6)]  # of a label, points
_FRONT: _LineStyle = {"color": "#52606d", "linewidth": 1.1, "linestyle": (0, (5, 2)), "zorder": 1.5}
_REACH = (1.0, 1.8, 2.6, 3.6, 5.0, 7.0)  # multiples of the offsets, tried in this order


@dataclass(frozen=True)
class Point:
    """One model in one engine."""

    model: str  # the run's name, or the dense teacher's
    engine: str
    is_dense: bool
    x: float  # latency in ms or size in MB
    score: float


@dataclass(frozen=True)
class ParetoPanel:
    """One plot: points with the label of their x axis and of their score."""

    title: str
    x_label: str
    y_label: str
    points: Sequence[Point]


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Find the points that no other point beats.

    A point is beaten by one that costs no more and scores no less, and is better in one of the two.

    Args:
        points: (cost, score) of each model; a low cost and a high score are good.

    Returns:
        The points of the front from the lowest cost to the highest; of equal points one.
    """
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def pareto_panels(runs: Sequence[RunResult]) -> list[ParetoPanel]:
    """Score against latency and against file size, as far as the runs know them.

    The score is the last metric of the runs, F1 in question answering. A dense teacher that several runs share is shown
    once. The size is that after gzip, since an fp32 file that is not compressed is as large with zeros as without.
    """
    label = next((label for run in runs for label in reversed(run.metrics.values())), "score")
    tokens = {run.tokens for run in runs}
    features = f"one feature of {tokens.pop()} tokens, " if len(tokens) == 1 and None not in tokens else ""
    kinds: list[tuple[str, str, Callable[[ModelResult], float | None]]] = [
        (f"{label} against latency", f"latency in ms, {features}one thread", lambda model: model.latency),
        (f"{label} against size", "file size after gzip in MB", lambda model: model.gzipped and model.gzipped / 1e6),
    ]
    models = _models(runs)
    panels = []
    for title, x_label, measure in kinds:
        points = [
            Point(name, ENGINES[model.name][0], is_dense, x, model.scores[label])
            for name, is_dense, model in models
            if (x := measure(model)) is not None and label in model.scores
        ]
        if title.endswith("size"):  # of the files of one run the smallest: it is what is deployed
            smallest = sorted(points, key=lambda point: point.x)
            points = [p for p in points if p == next(q for q in smallest if q.model == p.model)]
        if points:
            panels.append(ParetoPanel(title, x_label, label, points))
    return panels


def draw_pareto(panels: Sequence[ParetoPanel]) -> Figure:
    """Draw the plots side by side, each with its front and one label a model."""
    with style():
        figure = Figure(figsize=(PANEL_SIZE[0] * len(panels), PANEL_SIZE[1]), layout="constrained")
        colors = _colors(panels)
        for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            _draw_points(axes, panel, colors)
            if len(panels) > 1:  # one plot alone has its title where it is shown
                axes.set_title(panel.title)
        figure.legend(
            handles=_legend(panels),
            loc="outside upper left",
            ncols=3 if len(panels) == 1 else 5,
            columnspacing=1.2,
            fontsize=8.5,
        )
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw_without_rendering()  # the layout that labels are placed in
        for axes, panel in zip(figure.axes, panels, strict=True):
            _place_labels(axes, panel, colors, renderer)
    return figure


def _models(runs: Sequence[RunResult]) -> list[tuple[str, bool, ModelResult]]:
    """All models with the names that they are shown by, and whether they are dense; each teacher once.

    A teacher whose own run is among the runs has the name of that run. Its measurements in the reports of its students
    take the place of those of its own run, which has no latency.
    """
    teachers: dict[tuple[float | None, ...], ModelResult] = {}
    for run in runs:
        teacher = run.model("teacher")
        if teacher is not None:
            teachers.setdefault((*teacher.scores.values(), teacher.parameters), teacher)
    own_runs = {
        (*model.scores.values(), model.parameters): run.name
        for run in runs
        if (model := run.model("model")) is not None
    }
    numbers = [""] if len(teachers) == 1 else [f" {number}" for number in range(1, len(teachers) + 1)]
    names = {key: own_runs.get(key, f"dense teacher{number}") for key, number in zip(teachers, numbers, strict=False)}
    models = [(names[key], True, teacher) for key, teacher in teachers.items()]
    for run in runs:
        is_known = run.name in names.values()
        for model in run.models:
            if model.name != "teacher" and not (is_known and model.name == "model"):
                is_dense = is_known or ("model" in (m.name for m in run.models) and not model.sparsity)
                models.append((run.name, is_dense, model))
    return models


def _colors(panels: Sequence[ParetoPanel]) -> dict[str, str]:
    points = [point for panel in panels for point in panel.points]
    students = list(dict.fromkeys(point.model for point in points if not point.is_dense))
    dense = {point.model: "black" for point in points if point.is_dense}
    return dense | {name: COLORS[index % (len(COLORS) - 1)] for index, name in enumerate(students)}


def _legend(panels: Sequence[ParetoPanel]) -> list[Line2D]:
    points = [point for panel in panels for point in panel.points]
    engines = list(dict.fromkeys(point.engine for point in points if not point.is_dense))
    markers = dict(ENGINES.values())
    handles = [Line2D([], [], color=GREY, marker=markers[name], linestyle="", label=name) for name in engines]
    if any(point.is_dense for point in points):
        handles.append(Line2D([], [], color="black", marker="*", markersize=9, linestyle="", label="dense"))
    return [*handles, Line2D([], [], label="Pareto front", **_FRONT)]


def _draw_points(axes: Axes, panel: ParetoPanel, colors: dict[str, str]) -> None:
    markers = dict(ENGINES.values())
    xs = [point.x for point in panel.points]
    if max(xs) >= _LOG_FROM * min(xs):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    for name, color in colors.items():
        own = sorted((point.x, point.score) for point in panel.points if point.model == name)
        axes.plot(*zip(*own, strict=True), color=color, linewidth=0.8, alpha=0.5) if len(own) > 1 else None
    for point in panel.points:
        marker, size = ("*", 12) if point.is_dense else (markers[point.engine], 6)
        axes.plot(point.x, point.score, marker, color=colors[point.model], markersize=size, zorder=3)
    axes.margins(x=0.12, y=0.15)
    left, right = axes.get_xlim()
    front = pareto_front([(point.x, point.score) for point in panel.points])
    # To the right edge: a model below the line is beaten by one that is on it.
    axes.step(*zip(*front, (right, front[-1][1]), strict=True), where="post", **_FRONT)
    axes.set_xlim(left, right)
    axes.set(xlabel=panel.x_label, ylabel=panel.y_label)


def _place_labels(axes: Axes, panel: ParetoPanel, colors: dict[str, str], renderer: RendererAgg) -> None:
    """Write each model's name beside its leftmost point, where it covers neither a point nor another name."""
    radius = POINT_RADIUS * axes.figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    taken = []
    for point in panel.points:
        x, y = axes.transData.transform((point.x, point.score))
        taken.append(Bbox.from_extents(x - radius, y - radius, x + radius, y + radius))
    first: dict[str, Point] = {}
    for point in sorted(panel.points, key=lambda point: (not point.is_dense, point.x)):
        first.setdefault(point.model, point)
    for name, point in first.items():
        label = axes.annotate(
            name,
            (point.x, point.score),
            xytext=(0, 0),
            textcoords="offset points",
            fontsize=8.5,
            color=colors[name],
            fontweight="bold" if point.is_dense else "normal",
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
            arrowprops={"arrowstyle": "-", "color": colors[name], "linewidth": 0.7, "alpha": 0.6, "shrinkB": 4},
        )
        places = [(reach, x * reach, y * reach) for reach in _REACH for x, y in _OFFSETS]
        free = (place for place in places if _is_free(_move(label, *place[1:], renderer), frame, taken))
        reach, x, y = next(free, places[0])
        taken.append(_move(label, x, y, renderer))
        if reach == _REACH[0] and label.arrow_patch is not None:
            label.arrow_patch.set_visible(False)  # close enough without a line


def _move(label: Annotation, x: float, y: float, renderer: RendererAgg) -> Bbox:
    """Move a label to an offset from its point, in points of 1/72 inch; give the box of its text, in pixels."""
    label.set_position((x, y))
    label.set_horizontalalignment("center" if x == 0 else "left" if x > 0 else "right")
    label.set_verticalalignment("center" if y == 0 else "bottom" if y > 0 else "top")
    label.update_positions(renderer)
    return Text.get_window_extent(label, renderer)  # without the line to the point


def _is_free(box: Bbox, frame: Bbox, taken: Sequence[Bbox]) -> bool:
    inside = frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    return inside and not any(box.overlaps(other) for other in taken)
