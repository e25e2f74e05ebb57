"""How does a curve become a picture without any package? Line charts and bars of time, as inline SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape

WIDTH, HEIGHT = 640, 240  # of a line chart
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 12, 36  # around the plot
_ROW = 22  # height of a bar's row
# Colours that stay apart for most colour-blind eyes: Okabe & Ito 2008.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


@dataclass(frozen=True)
class Line:
    """A curve."""

    label: str
    points: Sequence[tuple[float, float]]  # (epoch, value)
    color: str
    is_goal: bool = False  # dashed


def shades(count: int) -> list[str]:
    """As many colours as there are layers, from light to dark."""
    return [f"hsl(210 75% {75 - 50 * index / max(count - 1, 1):.0f}%)" for index in range(count)]


def line_chart(lines: Sequence[Line], x_end: float, *, y_end: float | None = None) -> str:
    """Draw curves over the epochs, both axes from 0.

    Args:
        lines: at least one point in all.
        x_end: last epoch.
        y_end: upper end of the values; None: a round number above the largest.
    """
    lines = [replace(line, points=[point for point in line.points if math.isfinite(point[1])]) for line in lines]
    top = y_end or _round_up(max((y for line in lines for _, y in line.points), default=1.0))
    x_end = x_end or 1.0

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            _LEFT + (WIDTH - _LEFT - _RIGHT) * min(x / x_end, 1.0),
            HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * min(max(y / top, 0.0), 1.0),
        )

    parts = []
    for tick in _ticks(top):
        left, y = place(0, tick)
        parts.append(f'<line x1="{left:g}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    parts += _epoch_axis(x_end, HEIGHT - _BOTTOM)
    for line in lines:
        points = [place(x, y) for x, y in line.points]
        dash = ' stroke-dasharray="5 4"' if line.is_goal else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline fill="none" stroke="{line.color}" stroke-width="1.8" points="{path}"{dash}/>')
        if len(points) <= 40 and not line.is_goal:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.4" fill="{line.color}"/>' for x, y in points]
    legend = "".join(
        f'<span style="color:{line.color}">&#9632;</span> {escape(line.label)} &#160; ' for line in lines if line.label
    )
    return _svg(parts, HEIGHT) + f'<p class="legend">{legend}</p>'


def windows_chart(windows: Sequence[tuple[str, float, float]], x_end: float) -> str:
    """Draw a bar for each window.

    Args:
        windows: label, start and end in epochs; an end of infinity is the end of the run.
        x_end: last epoch.
    """
    height = _TOP + _ROW * len(windows) + _BOTTOM
    left, right = 230, WIDTH - _RIGHT
    x_end = x_end or 1.0
    parts = _epoch_axis(x_end, height - _BOTTOM, left)
    for row, (label, start, end) in enumerate(windows):
        y = _TOP + _ROW * row
        x1, x2 = (left + (right - left) * min(max(time / x_end, 0.0), 1.0) for time in (start, min(end, x_end)))
        color = COLORS[row % len(COLORS)]
        parts.append(f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{escape(label)}</text>')
        # What takes no time is still to be seen.
        parts.append(
            f'<rect x="{min(x1, right - 3):.1f}" y="{y + 3}" width="{max(x2 - x1, 3):.1f}" height="{_ROW - 6}" '
            f'fill="{color}" fill-opacity="0.6"/>'
        )
    return _svg(parts, height)


def _svg(parts: Sequence[str], height: int) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" role="img" '
        'font-family="sans-serif" font-size="12" fill="#333">' + "".join(parts) + "</svg>"
    )


def _epoch_axis(x_end: float, y: float, left: float = _LEFT) -> list[str]:
    right = WIDTH - _RIGHT
    parts = [f'<line x1="{left}" y1="{y}" x2="{right}" y2="{y}" stroke="#333"/>']
    for tick in _ticks(x_end):
        x = left + (right - left) * tick / x_end
        parts.append(f'<line x1="{x:.1f}" y1="{y}" x2="{x:.1f}" y2="{y + 4}" stroke="#333"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 17}" text-anchor="middle">{_number(tick)}</text>')
    return [*parts, f'<text x="{(left + right) / 2:.1f}" y="{y + 32}" text-anchor="middle">epoch</text>']


def _step(end: float) -> float:
    """A round distance, 1, 2 or 5 times a power of ten, of which three to seven fit into ``end``."""
    power = 10 ** math.floor(math.log10(end / 4))
    return next(factor * power for factor in (1, 2, 5, 10) if end / (factor * power) <= 7)


def _round_up(value: float) -> float:
    return math.ceil(value / _step(value) - 1e-9) * _step(value) if value > 0 else 1.0


def _ticks(end: float) -> list[float]:
    return [_step(end) * index for index in range(math.floor(end / _step(end) + 1e-9) + 1)]


def _number(value: float) -> str:
    return f"{value:.10g}" if value == 0 or 1e-2 <= abs(value) < 1e6 else f"{value:.1e}"
