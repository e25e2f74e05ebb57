"""Rewrite of fp32 Linear layers, with GELU after them, as nodes with their non-zero weights."""

from collections.abc import Iterable, Mapping, Sequence
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


def replace_float_linears(graph: Graph, linears: Iterable[FloatLinear], gelus: Mapping[str, str]) -> None:
    """Replace layers by one node each, including a GELU that follows, and the two of a feed-forward block by one.

    Args:
        graph: changed in place.
        linears: the layers to replace.
        gelus: result of ``find_gelus``.
    """
    rest = {linear.output: linear for linear in linears}
    while rest:
        first = rest.pop(next(iter(rest)))
        output = gelus.get(first.output, first.output)
        second = next((linear for linear in rest.values() if linear.input == output), None)
        layers = [[first]]
        if second is not None and second.output not in gelus and graph.single_consumer(output, "MatMul") is not None:
            layers, output = [[first], [second]], second.output
            del rest[second.output]
        add_float_linears(graph, layers, output, gelu=first.output in gelus)


def add_float_linears(graph: Graph, layers: Sequence[Sequence[FloatLinear]], output: str, gelu: bool = False) -> None:
    """Add one node for a layer, or for two of which the second one alone reads the first.

    Args:
        graph: changed in place.
        layers: each may be several with the same input, whose outputs are concatenated.
        output: name of the node's output.
        gelu: apply GELU to the first one's output.
    """
    inputs = [layers[0][0].input]
    for linears in layers:
        name, weight = ".".join(linear.name for linear in linears), np.concatenate([x.weight for x in linears])
        forms = [sparse_rows(weight, width) for width in (1, BLOCK)]
        arrays = min(forms, key=lambda form: sum(array.nbytes for array in form.values()))
        arrays["bias"] = np.concatenate([linear.bias for linear in linears])
        inputs += [graph.add_constant(f"{name}.{key}", array) for key, array in arrays.items()]
    graph.add_node(
        "SparseLinearFloat" if len(layers) == 1 else "SparseFeedForwardFloat",
        inputs,
        [output],
        DOMAIN,
        inputs=layers[0][0].weight.shape[1],
        gelu=int(gelu),
    )
