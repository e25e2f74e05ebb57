"""Plots of a run."""

import math
from xml.etree import ElementTree

import pytest

from sparsification.report.plots import Line, Panel, draw_panel, draw_spans, to_svg

SVG = "{http://www.w3.org/2000/svg}"


def test_lines_start_and_end_where_their_values_do():
    figure = draw_panel(Panel("a < b", [Line('"a" < b', [(0.5, 1.0), (1.0, math.inf), (2.0, 10.0)])]), 4.0)
    (line,) = figure.axes[0].lines
    assert line.get_xydata().tolist()[::2] == [[0.5, 1.0], [2.0, 10.0]]
    assert math.isnan(line.get_ydata()[1])
    assert figure.axes[0].get_xlim() == (0.0, 4.0)
    drawing = ElementTree.fromstring(to_svg(figure, '"a" < b'))
    assert drawing.attrib["aria-label"] == '"a" < b'
    assert '"a" < b' in [text.text for text in drawing.iter(f"{SVG}text")]


def test_numbers_are_plain_text_and_a_power_of_ten_stands_beside_its_axis():
    drawing = to_svg(draw_panel(Panel("", [Line("", [(0.0, -2e-5), (1.0, 2e-5)])]), 1.0), "")
    texts = {text.text for text in ElementTree.fromstring(drawing).iter(f"{SVG}text")}
    assert texts >= {"0.2", "\N{MINUS SIGN}2", "2"}
    assert "".join(span.text for span in ElementTree.fromstring(drawing).iter(f"{SVG}tspan")) == "×10\N{MINUS SIGN}5"


def test_spans_have_the_length_of_their_time():
    spans = [("always", 0.0, math.inf), ("half", 1.0, 3.0), ("moment", 4.0, 4.0), ("after the run", 9.0, 10.0)]
    bars = draw_spans(spans, 4.0).axes[0].patches
    assert [(bar.get_x(), bar.get_width()) for bar in bars[:2]] == [(0.0, 4.0), (1.0, 2.0)]
    assert all(bar.get_width() > 0 and bar.get_x() + bar.get_width() <= 4.0 for bar in bars[2:])


@pytest.mark.parametrize("end", [0.0, 1e-7, 0.3, 1.0, 30.0, 12345.0])
@pytest.mark.filterwarnings("error")
def test_every_length_of_run_can_be_drawn(end):
    ElementTree.fromstring(to_svg(draw_spans([("always", 0.0, math.inf), ("late", 2 * end, 3 * end)], end), ""))
    for panel in (Panel("", [Line("", [(end, 0.0)])], is_share=True), Panel("", [Line("a", [(end, end)])])):
        ElementTree.fromstring(to_svg(draw_panel(panel, end), ""))


def test_model_of_many_layers_has_a_color_for_each():
    lines = [Line(f"layer {index}", [(0.0, 0.0), (1.0, float(index))]) for index in range(24)]
    figure = draw_panel(Panel("", lines, is_share=True, by_layer=True), 1.0)
    assert len({tuple(line.get_color()) for line in figure.axes[0].lines}) == 24
    assert not figure.legends and figure.axes[1].get_ylabel() == "layer"
