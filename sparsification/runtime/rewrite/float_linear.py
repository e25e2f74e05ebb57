"""Rewrite of an fp32 Linear layer, with GELU after it, as one node with its non-zero weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sparsification.runtime.graph import Graph, Match, Op
from sparsification.runtime.rewrite.linear import BLOCK, DOMAIN, MAX_INPUTS, added_bias
from sparsification.runtime.rewrite.sparse_rows import sparse_rows

_PRODUCT = Op("MatMul", "input", "weight")


@dataclass
class FloatLinear:
    """An fp32 Linear layer of a graph."""

    name: str  # of its weight
    input: str
    weight: np.ndarray  # fp32 [out, in]
    bias: np.ndarray  # fp32 [out]
    output: str

    @property
    def density(self) -> float:
        """Share of the weights that are not zero."""
        return float((self.weight != 0).mean())


def find_float_linears(graph: Graph) -> dict[str, FloatLinear]:
    """All fp32 Linear layers, by the names of their outputs."""
    products = [graph.match(node.output[0], _PRODUCT) for node in graph.model.graph.node if node.op_type == "MatMul"]
    layers = [_linear(graph, product) for product in products if product is not None]
    return {layer.output: layer for layer in layers if layer is not None}


def _linear(graph: Graph, product: Match) -> FloatLinear | None:
    weight = graph.constant(product["weight"])
    if weight is None or weight.dtype != np.float32 or weight.ndim != 2 or not 0 < weight.shape[0] <= MAX_INPUTS:
        return None
    bias, output = added_bias(graph, product.nodes[0].output[0], weight.shape[1])
    return FloatLinear(product["weight"], product["input"], weight.T, bias, output)


def replace_float_linears(
    graph: Graph, linears: Mapping[str, FloatLinear], sparse: Set[str], gelus: Mapping[str, str]
) -> None:
    """Replace layers by one node each, including a GELU that follows, or by one for the two of a feed-forward block.

    Args:
        graph: changed in place.
        linears: result of ``find_float_linears``.
        sparse: outputs of the layers to replace.
        gelus: result of ``find_gelus``.
    """
    # A block is added when its second layer is reached.
    first_of = {}
    for name in sparse:
        reader = graph.single_consumer(gelus.get(name, name), "MatMul")
        second = next((linears[other] for other in sparse if reader and linears[other].product == reader.output[0]), None)
        if second is not None and second.input == gelus.get(name, name):
            first_of[second.output] = linears[name]
    firsts = {linear.output for linear in first_of.values()}
def replace_float_linear(graph: Graph, linear: FloatLinear, gelus: Mapping[str, str]) -> None:
    """Replace a layer by one node, including a GELU that follows.

    Args:
        graph: changed in place.
        linear: one of ``find_float_linears``.
        gelus: result of ``find_gelus``.
    """
    add_float_linear(graph, [linear], gelus.get(linear.output, linear.output), gelu=linear.output in gelus)


def add_float_linear(graph: Graph, linears: Sequence[FloatLinear], output: str, gelu: bool = False) -> None:
    """Add one node for layers with the same input; it concatenates their outputs.

    Args:
        graph: changed in place.
        linears: the layers.
        output: name of the node's output.
        gelu: apply GELU.
    """
    weight = np.concatenate([linear.weight for linear in linears])
    forms = [sparse_rows(weight, width) for width in (1, BLOCK)]
    arrays = min(forms, key=lambda form: sum(array.nbytes for array in form.values()))
    arrays["bias"] = np.concatenate([linear.bias for linear in linears])
    name = ".".join(linear.name for linear in linears)
    graph.add_node(
        "SparseLinearFloat",
        [linears[0].input, *(graph.add_constant(f"{name}.{key}", array) for key, array in arrays.items())],
        [output],
        DOMAIN,
        inputs=weight.shape[1],
        gelu=int(gelu),
    )
