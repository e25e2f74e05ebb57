"""Order of the outputs of a layer whose only reader can take them in any order."""

from collections.abc import Mapping

import numpy as np

from sparsification.runtime.graph import Graph
from sparsification.runtime.rewrite.linear import Linear


def sort_outputs(graph: Graph, linears: Mapping[str, Linear], gelus: Mapping[str, str]) -> None:
    """Sort the outputs of layers by their number of weights, and the inputs of the layers that read them alike.

    The operator works on 16 outputs at a time, and the fullest decides how long it takes. It sorts by itself, but then
    it has to put the outputs back. That is saved where one layer of unstructured zeros, the first of a feed-forward
    block, is read by one other alone. Its quantized output gets another name, because its order is another one.

    Args:
        graph: changed in place.
        linears: the layers that become sparse, changed in place.
        gelus: result of ``find_gelus``.
    """
    for first in linears.values():
        second = _only_reader(graph, linears, gelus.get(first.output, first.output))
        if second is None or first.width != 1 or second.width != 1:
            continue
        order = np.argsort(-np.count_nonzero(first.weight, axis=1), kind="stable")
        first.weight, first.scale, first.bias = first.weight[order], first.scale[order], first.bias[order]
        second.weight = second.weight[:, order]
        first.sorted_output = second.input = f"{second.input}.sorted"


def _only_reader(graph: Graph, linears: Mapping[str, Linear], output: str) -> Linear | None:
    """The layer that reads an output, quantized, if nothing else does."""
    quantize = graph.single_consumer(output, "QuantizeLinear")
    dequantize = graph.single_consumer(quantize.output[0], "DequantizeLinear") if quantize is not None else None
    if dequantize is None or graph.single_consumer(dequantize.output[0], "MatMul") is None:
        return None
    return next((linear for linear in linears.values() if linear.input == dequantize.input[0]), None)
