"""Curves as SVG."""

import math
from xml.etree import ElementTree

import pytest

from sparsification.report.svg import WIDTH, Line, line_chart, windows_chart


def test_lines_start_and_end_where_their_values_do():
    drawing = line_chart([Line("a < b", [(0.0, 0.0), (1.0, math.nan), (2.0, 10.0)], "#000")], 2.0, y_end=10.0)
    svg, _, legend = drawing.partition("<p ")
    (points,) = (e.attrib["points"] for e in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}polyline"))
    (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in points.split())
    assert x2 == WIDTH - 12 and y2 < y1 and x1 < x2
    assert "a &lt; b" in legend


@pytest.mark.parametrize("end", [0.0, 1e-7, 0.3, 1.0, 30.0, 12345.0])
def test_every_length_of_run_can_be_drawn(end):
    ElementTree.fromstring(windows_chart([("always", 0.0, math.inf), ("late", 2 * end, 3 * end)], end))
    line_chart([Line("", [(end, end)], "#000")], end)
