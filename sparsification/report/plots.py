"""Plots of a report: curves over the epochs and the time spans of a recipe, drawn by matplotlib as inline SVG.

Matplotlib draws without a browser, a display or a network, and its SVG needs no script. With libraries that draw in the
browser (Plotly, Bokeh, Vega), each report would contain their JavaScript or load it from a server.
"""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.rcsetup import cycler
from matplotlib.ticker import MaxNLocator, ScalarFormatter

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

SIZE = (4.6, 2.7)  # of a plot, inches; 9 pt text stays readable when a phone shows it 370 pixels wide
# Colors that people with color blindness can tell apart: Okabe & Ito 2008.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
GREY = "#7b8794"
DARK = "#323f4b"
MAX_LAYER_NAMES = 4  # more layers are named by a scale of colors
MAX_MARKERS = 30  # a curve of more points is drawn without them
_ROW = 0.24  # height of a time span, inches
_STYLE: "dict[RcKeyType, object]" = {
    "font.size": 9,
    "axes.prop_cycle": cycler(color=COLORS),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#9aa5b1",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.use_mathtext": True,
    "grid.color": "#e4e7eb",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.7,
    "lines.markersize": 3.5,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "svg.fonttype": "none",  # text stays text: it can be searched and copied
    "svg.hashsalt": "report",  # the same plot has the same SVG
}
# Matplotlib numbers the parts of each figure from 1, so that the figures of one page would share these names.
_PART_NAMES = re.compile(r'<g id="[\w.]+_\d+"')


@dataclass(frozen=True)
class Line:
    """A curve."""

    label: str
    points: Sequence[tuple[float, float]]  # (epoch, value)
    is_reference: bool = False  # a target or the teacher: dashed


@dataclass(frozen=True)
class Panel:
    """What one plot shows over the epochs."""

    title: str
    lines: Sequence[Line]
    is_share: bool = False  # percentages: the axis is 0 to 100
    from_zero: bool = False  # the axis begins at 0
    by_layer: bool = False  # one line a layer, colored from the first to the last


class _Numbers(ScalarFormatter):
    """Tick labels in plain text: formulas take most of a plot's time. A power of ten beside an axis stays one."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return super().__call__(x, pos).removeprefix(r"$\mathdefault{").removesuffix("}$")


@contextmanager
def style() -> Iterator[None]:
    """Draw in the style of the report; settings of the program that uses matplotlib as well stay as they are."""
    with matplotlib.rc_context(_STYLE):
        yield


def draw_panel(panel: Panel, end: float) -> Figure:
    """Draw the curves of a panel.

    Args:
        panel: what to draw; values that are not finite leave gaps.
        end: last epoch.
    """
    with style():
        figure = Figure(figsize=SIZE, layout="constrained")
        axes = figure.subplots()
        for index, line in enumerate(panel.lines):
            _draw_line(axes, line, _color(panel, index))
        _set_epochs(axes, end)
        axes.yaxis.set_major_formatter(_Numbers())
        if panel.is_share:
            axes.set_ylim(-3, 103)
        elif panel.from_zero:
            axes.set_ylim(bottom=0)
        else:
            axes.margins(y=0.08)
        if panel.by_layer and len(panel.lines) > MAX_LAYER_NAMES:
            scale = ScalarMappable(Normalize(0, len(panel.lines) - 1), matplotlib.colormaps["viridis_r"])
            bar = figure.colorbar(scale, ax=axes, ticks=MaxNLocator(6, integer=True), format=_Numbers(), pad=0.02)
            bar.set_label("layer")
            bar.outline.set_visible(False)
        elif any(line.label for line in panel.lines):
            figure.legend(loc="outside upper left", ncols=len(panel.lines), columnspacing=1.2, borderpad=0)
    return figure


def draw_spans(spans: Sequence[tuple[str, float, float]], end: float) -> Figure:
    """Draw the time spans of a recipe's modifiers, one below the other.

    Args:
        spans: label, start and end in epochs; an end of infinity is the end of the run.
        end: last epoch.
    """
    end = end or 1.0
    with style():
        figure = Figure(figsize=(SIZE[0], 0.6 + _ROW * len(spans)), layout="constrained")
        axes = figure.subplots()
        for row, (_, start, stop) in enumerate(spans):
            # A span of no length is drawn as a mark.
            width = max(min(stop, end) - start, end / 150)
            axes.barh(row, width, left=min(start, end - width), height=0.62, color=COLORS[0], alpha=0.75)
        axes.set_yticks(range(len(spans)), [label for label, _, _ in spans])
        axes.set_ylim(len(spans) - 0.5, -0.5)  # the first one at the top
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        _set_epochs(axes, end)
    return figure


def to_svg(figure: Figure, description: str) -> str:
    """Render a figure as an ``<svg>`` element that a page of HTML can contain.

    Args:
        figure: what to render.
        description: read aloud in place of the picture.
    """
    buffer = io.StringIO()
    with style():
        figure.savefig(
            buffer, format="svg", transparent=True, metadata=dict.fromkeys(["Creator", "Date", "Format", "Type"])
        )
    text = buffer.getvalue()
    text = _PART_NAMES.sub("<g", text[text.index("<svg") :])
    return text.replace("<svg", f'<svg role="img" aria-label="{_attribute(description)}"', 1)


def _draw_line(axes: Axes, line: Line, color: object) -> None:
    xs, ys = zip(*line.points, strict=True)
    finite = [y if math.isfinite(y) else math.nan for y in ys]
    if line.is_reference:
        axes.plot(xs, finite, color=color, label=line.label, linestyle=(0, (4, 2)), linewidth=1.1, zorder=3)
    else:
        marker = "o" if len(xs) <= MAX_MARKERS else None
        axes.plot(xs, finite, color=color, label=line.label, marker=marker, clip_on=False)


def _color(panel: Panel, index: int) -> object:
    if panel.by_layer:
        return matplotlib.colormaps["viridis_r"](index / max(len(panel.lines) - 1, 1))
    if panel.lines[index].is_reference:
        return DARK
    return COLORS[index % len(COLORS)]


def _set_epochs(axes: Axes, end: float) -> None:
    axes.set_xlim(0, end or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(_Numbers())
    axes.set_xlabel("epoch")


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
