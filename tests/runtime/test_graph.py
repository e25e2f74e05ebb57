"""Patterns match what they describe, and nothing else."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from sparsification.runtime.graph import Graph, Op

SQUARE = Op("Mul", "x", "x")
SHIFTED = Op("Add", Op("Sqrt", "x", name="root"), "shift")


def _graph(*nodes: tuple, outputs: tuple[str, ...] = ("y",)) -> Graph:
    """A graph of nodes (type, inputs, output, attributes); "a" and "b" are its inputs."""
    made = [
        helper.make_node(kind, inputs.split(), [output], **attributes) for kind, inputs, output, attributes in nodes
    ]
    values = [
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names] for names in ("ab", outputs)
    ]
    return Graph(helper.make_model(helper.make_graph(made, "test", *values)))


def test_tensors_are_found_by_the_names_of_the_pattern():
    match = _graph(("Sqrt", "a", "r", {}), ("Add", "r b", "y", {})).match("y", SHIFTED)
    assert match.tensors == {"x": "a", "root": "r", "shift": "b"}
    assert match["shift"] == "b"
    assert [node.op_type for node in match.nodes] == ["Add", "Sqrt"]


@pytest.mark.parametrize("inputs", ["r b", "b r"])
def test_factors_and_terms_match_in_any_order(inputs):
    assert _graph(("Sqrt", "a", "r", {}), ("Add", inputs, "y", {})).match("y", SHIFTED)["shift"] == "b"


@pytest.mark.parametrize(("inputs", "matches"), [("r b", True), ("b r", False)])
def test_inputs_of_other_operators_match_in_their_order(inputs, matches):
    graph = _graph(("Sqrt", "a", "r", {}), ("Sub", inputs, "y", {}))
    assert (graph.match("y", Op("Sub", Op("Sqrt", "x"), "z")) is not None) == matches


@pytest.mark.parametrize(("inputs", "matches"), [("a a", True), ("a b", False)])
def test_a_name_that_occurs_twice_is_one_tensor(inputs, matches):
    assert (_graph(("Mul", inputs, "y", {})).match("y", SQUARE) is not None) == matches


def test_the_other_order_is_tried_when_the_rest_does_not_match():
    """Both terms are square roots: only one of them is that of the other factor."""
    graph = _graph(("Sqrt", "a", "p", {}), ("Sqrt", "b", "q", {}), ("Add", "p q", "s", {}), ("Mul", "s b", "y", {}))
    match = graph.match("y", Op("Mul", Op("Add", Op("Sqrt", "x"), "other"), "x"))
    assert match.tensors == {"x": "b", "other": "p"}


def test_attributes_have_to_be_equal():
    graph = _graph(("Transpose", "a", "y", {"perm": [0, 2, 1]}))
    assert graph.match("y", Op("Transpose", "x", perm=[0, 2, 1])) is not None
    assert graph.match("y", Op("Transpose", "x", perm=[0, 1, 2])) is None
    assert graph.match("y", Op("Transpose", "x", axis=1)) is None


def test_the_first_pattern_that_matches_counts():
    graph = _graph(("Div", "a b", "y", {}))
    match = graph.match("y", Op("Mul", "x", "z"), Op("Sub|Div", "x", "z"), Op("Div", "z", "x"))
    assert match.tensors == {"x": "a", "z": "b"}
    assert graph.match("y", Op("Mul", "x", "z")) is None
    assert graph.match("a", Op("Div", "x", "z")) is None


def test_a_match_is_closed_if_no_other_node_and_no_output_uses_its_inside():
    nodes = [("Sqrt", "a", "r", {}), ("Add", "r b", "y", {})]
    other = ("Neg", "r", "z", {})
    for graph, closed in (
        (_graph(*nodes), True),
        (_graph(*nodes, other), False),
        (_graph(*nodes, outputs=("y", "r")), False),
    ):
        assert graph.is_used_only_in(graph.match("y", SHIFTED)) == closed
    graph = _graph(*nodes, ("Neg", "b", "z", {}))
    match = graph.match("y", SHIFTED)
    assert graph.is_used_only_in(match) and graph.is_used_only_in(match, "a")
    assert not graph.is_used_only_in(match, "b")


def test_nodes_that_no_output_depends_on_are_removed():
    graph = _graph(("Sqrt", "a", "r", {}), ("Neg", "a", "unused", {}), ("Add", "r b", "y", {}))
    graph.remove_unused()
    assert [node.op_type for node in graph.model.graph.node] == ["Sqrt", "Add"]


def test_a_constant_is_found_behind_identity():
    graph = _graph(("Identity", "w", "v", {}), ("Mul", "a v", "y", {}))
    assert graph.constant("v") is None
    graph.add_constant("w", np.array([1.0, 2.0], np.float32))
    np.testing.assert_array_equal(graph.constant("v"), [1.0, 2.0])
