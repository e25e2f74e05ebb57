"""Costs of shapes are those of the models that were timed, and linear between them."""

import pytest

from helpers.exports import make_bert
from helpers.shapes import ENCODER, cost_of, make_costs
from sparsification.plan.costs import Setting
from sparsification.plan.engines import ANY
from sparsification.plan.planner import BYTES, MILLISECONDS
from sparsification.plan.shape import costs
from sparsification.plan.shape.encoder import Shape, find_encoder


def test_parts_are_those_of_the_formula():
    assert make_costs().parts(MILLISECONDS) == pytest.approx((2.0, 1.0, 0.02))
    assert make_costs().of(Shape((0, 1), 30), MILLISECONDS) == pytest.approx(cost_of(Shape((0, 1), 30)).milliseconds)


@pytest.mark.usefixtures("fast_export")
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_sizes_are_those_of_exported_models(precision, tiny_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr("sparsification.plan.costs.ROUNDS", 2)
    model, said = make_bert().eval(), []
    encoder = find_encoder(model)
    rows = [dict.fromkeys(("input_ids", "attention_mask", "token_type_ids"), [1] * 12)] * 16
    inputs = (model, tiny_tokenizer, rows, encoder, precision, Setting(1, 12, 1, ANY), tmp_path, said.append)
    found = costs.measure_costs(*inputs)
    shapes = costs.timed_shapes(encoder)
    assert list(found.models) == shapes and shapes[0] == Shape((), encoder.width)
    sizes = [cost.bytes for cost in found.models.values()]
    assert sizes[0] > max(sizes[1:]) and found.dense.bytes >= sizes[0]
    for shape, size in zip(shapes, sizes, strict=True):
        assert found.of(shape, BYTES) == pytest.approx(size)
    assert all(cost.milliseconds > 0 for cost in found.models.values())
    assert costs.measure_costs(*inputs) == found and said[-1].startswith("Costs: from ")


def test_timed_shapes_differ_in_one_thing():
    assert costs.timed_shapes(ENCODER) == [Shape((), 80), Shape((), 30), Shape((1, 3), 80)]
