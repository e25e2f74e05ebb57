"""Rewrite of an int8 Linear layer, with GELU and quantization after it, as one node with its non-zero weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparsification.runtime.graph import Graph, Match, Op, attribute
from sparsification.runtime.rewrite.quant_params import QuantParams, unsigned_params
from sparsification.runtime.rewrite.sparse_rows import as_entries, sparse_rows

DOMAIN = "sparsification"  # of the sparse operators
BLOCK = 4  # adjacent inputs of one output, in the block form
MAX_INPUTS = 2**16  # of a layer: the sums of the products fit into int32

_PRODUCT = Op(
    "MatMul",
    Op("DequantizeLinear", "input", name="input_values"),
    Op("DequantizeLinear", "weight", "scale", name="weight_values"),
)
_ERF = Op("Add", Op("Erf", Op("Div|Mul", "x", "root", name="quotient")), "one")
# x * (1 + erf(x / sqrt 2)) * 0.5, with the factors in any order
_GELU = (
    Op("Gelu", "x"),
    Op("Mul", Op("Mul", "x", _ERF), "half"),
    Op("Mul", Op("Mul", _ERF, "half"), "x"),
    Op("Mul", Op("Mul", "x", "half"), _ERF),
)


@dataclass
class Linear:
    """An int8 Linear layer of a graph."""

    name: str  # of its weight
    input: str  # the quantized tensor, uint8
    params: QuantParams  # of the input
    weight: np.ndarray  # int8 [out, in]
    scale: np.ndarray  # of the weight, fp32 [out]
    bias: np.ndarray  # fp32 [out]
    output: str
    sorted_output: str = ""  # name of the quantized output if its order is not the graph's

    @property
    def density(self) -> float:
        """Share of the weights that are not zero."""
        return float((self.weight != 0).mean())

    @property
    def width(self) -> int:
        """Weights of an entry in the form that takes less space in the file: 1, or ``BLOCK``."""
        blocks = np.count_nonzero(as_entries(self.weight, BLOCK).any(-1))
        return BLOCK if (BLOCK + 1) * blocks < 2 * np.count_nonzero(self.weight) else 1


def find_linears(graph: Graph) -> dict[str, Linear]:
    """All int8 Linear layers with symmetric weights, by the names of their outputs."""
    products = [graph.match(node.output[0], _PRODUCT) for node in graph.model.graph.node if node.op_type == "MatMul"]
    layers = [_linear(graph, product) for product in products if product is not None]
    return {layer.output: layer for layer in layers if layer is not None}


def _linear(graph: Graph, product: Match) -> Linear | None:
    params = unsigned_params(graph, graph.maker[product["input_values"]])
    weight, scale = graph.constant(product["weight"]), graph.constant(product["scale"])
    inputs = graph.maker[product["weight_values"]].input
    zero_points = graph.constant(inputs[2]) if len(inputs) > 2 else np.zeros(1, np.int8)
    if params is None or weight is None or weight.dtype != np.int8 or weight.ndim != 2 or scale is None:
        return None
    # Of an asymmetric weight, a weight of 0 is not the integer 0.
    if zero_points is None or zero_points.any() or weight.shape[0] > MAX_INPUTS:
        return None
    width = weight.shape[1]
    bias, output = added_bias(graph, product.nodes[0].output[0], width)
    return Linear(
        name=product["weight"],
        input=product["input"],
        params=params,
        weight=weight.T,
        scale=np.broadcast_to(scale.astype(np.float32).reshape(-1), (width,)),
        bias=bias,
        output=output,
    )


def added_bias(graph: Graph, product: str, width: int) -> tuple[np.ndarray, str]:
    """The constant fp32 [width] that is added to a product, else zeros; and the name of the result."""
    add = graph.single_consumer(product, "Add")
    bias = graph.constant(graph.other_input(add, product)) if add is not None else None
    if add is None or bias is None or bias.shape != (width,):
        return np.zeros(width, np.float32), product
    return bias, add.output[0]


def find_gelus(graph: Graph) -> dict[str, str]:
    """Output of each exact GELU, by its input, where the input is not used elsewhere."""
    found = {}
    for node in graph.model.graph.node:
        match = graph.match(node.output[0], *_GELU) if node.op_type in ("Gelu", "Mul") else None
        if match is not None and _is_exact(graph, match) and graph.is_used_only_in(match, match["x"]):
            found[match["x"]] = node.output[0]
    return found


def _is_exact(graph: Graph, gelu: Match) -> bool:
    if gelu.nodes[0].op_type == "Gelu":
        return attribute(gelu.nodes[0], "approximate") != b"tanh"
    root = 2**0.5 if graph.maker[gelu["quotient"]].op_type == "Div" else 0.5**0.5
    expected = {"root": root, "one": 1.0, "half": 0.5}
    actual = {name: graph.scalar(gelu[name]) for name in expected}
    return all(one is not None and abs(float(one) - expected[name]) <= 1e-6 for name, one in actual.items())


def replace_linear(graph: Graph, linear: Linear, gelus: dict[str, str]) -> None:
    """Replace a layer by one node, including a GELU and a quantization that follow.

    Args:
        graph: changed in place.
        linear: one of ``find_linears``.
        gelus: result of ``find_gelus``.
    """
    output = gelus.get(linear.output, linear.output)
    quantize = graph.single_consumer(output, "QuantizeLinear")
    params = unsigned_params(graph, quantize)
    if params is not None and quantize is not None:
        output = linear.sorted_output or quantize.output[0]
    add_linear(graph, [linear], output, None if params is None else [params], gelu=linear.output in gelus)


def add_linear(
    graph: Graph, linears: Sequence[Linear], output: str, params: Sequence[QuantParams] | None, gelu: bool = False
) -> None:
    """Add one node for layers with the same input; it concatenates their outputs.

    Args:
        graph: changed in place.
        linears: the layers.
        output: name of the node's output.
        params: quantization parameters of each layer's output; None for an output in fp32.
        gelu: apply GELU before the quantization.
    """
    name = linears[0].name
    # In the order of the engine: the product of the two scales first.
    scale = np.concatenate([linear.scale * linear.params.scale for linear in linears])
    arrays = {
        **sparse_rows(np.concatenate([linear.weight for linear in linears]), linears[0].width),
        "scale": scale,
        "bias": np.concatenate([linear.bias for linear in linears]).astype(np.float32),
    }
    if params is not None:
        widths = [len(linear.weight) for linear in linears]
        arrays["output_scale"] = np.repeat([one.scale for one in params], widths).astype(np.float32)
        # Signed integers are stored as uint8, shifted by 128.
        zero_points = [one.zero_point + 128 * one.signed for one in params]
        arrays["output_zero_point"] = np.repeat(zero_points, widths).astype(np.uint8)
    graph.add_node(
        "SparseLinear" if params is None else "SparseLinearQuantized",
        [linears[0].input, *(graph.add_constant(f"{name}.{key}", array) for key, array in arrays.items())],
        [output],
        DOMAIN,
        inputs=linears[0].weight.shape[1],
        zero_point=linears[0].params.zero_point,
        gelu=int(gelu),
    )
