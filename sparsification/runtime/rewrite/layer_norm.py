"""Rewrite of a residual sum, LayerNormalization and, where there is one, quantization as one node."""

from onnx import NodeProto

from sparsification.runtime.graph import Graph, Op, attribute
from sparsification.runtime.rewrite.linear import DOMAIN
from sparsification.runtime.rewrite.quant_params import unsigned_params

# (x - mean) / sqrt(mean((x - mean) ** 2) + epsilon) * gamma + beta: PyTorch's LayerNorm below opset 17
_DECOMPOSED = Op(
    "Add",
    Op(
        "Mul",
        Op(
            "Div",
            Op("Sub", "x", Op("ReduceMean", "x", name="mean"), name="centered"),
            Op("Sqrt", Op("Add", Op("ReduceMean", Op("Pow", "centered", "exponent"), name="variance"), "epsilon")),
        ),
        "gamma",
    ),
    "beta",
)


def fuse_layer_norms(graph: Graph) -> None:
    """Replace each LayerNormalization of a sum of two activations."""
    for node in list(graph.model.graph.node):
        found = _layer_norm(graph, node)
        if found is None:
            continue
        sum_, gamma, beta, epsilon, num_uses = found
        add = graph.producer(sum_, "Add")
        quantizes = [
            (user, params)
            for user in graph.consumers(node.output[0], "QuantizeLinear")
            if (params := unsigned_params(graph, user)) is not None
        ]
        if add is None or any(graph.constant(term) is not None for term in add.input):
            continue
        if len(graph.consumers(sum_)) > num_uses or sum_ in graph.outputs:
            continue
        inputs, outputs = [*add.input, gamma, beta], [node.output[0]]
        if not quantizes:
            graph.add_node("AddNorm", inputs, outputs, DOMAIN, epsilon=epsilon)
            continue
        quantize, params = quantizes[0]
        outputs.append(quantize.output[0])
        graph.add_node(
            "AddNormQuantize",
            inputs,
            outputs,
            DOMAIN,
            epsilon=epsilon,
            scale=float(params.scale),
            zero_point=params.zero_point,
        )


def _layer_norm(graph: Graph, node: NodeProto) -> tuple[str, str, str, float, int] | None:
    """Input, weight, bias and epsilon of the LayerNormalization over the last dimension that a node ends.

    The last item is how many of its nodes use the input.
    """
    if node.op_type == "LayerNormalization":
        axis, epsilon = attribute(node, "axis"), attribute(node, "epsilon")
        if axis not in (None, -1) or len(node.input) != 3:
            return None
        return node.input[0], node.input[1], node.input[2], epsilon if isinstance(epsilon, float) else 1e-5, 1
    match = graph.match(node.output[0], _DECOMPOSED)
    if match is None or not all(_is_over_last(graph, graph.maker[match[name]]) for name in ("mean", "variance")):
        return None
    exponent, epsilon = graph.scalar(match["exponent"]), graph.scalar(match["epsilon"])
    constant = all(graph.constant(match[name]) is not None for name in ("gamma", "beta"))
    if exponent != 2 or epsilon is None or not constant:
        return None
    return match["x"], match["gamma"], match["beta"], float(epsilon), 2


def _is_over_last(graph: Graph, reduce: NodeProto) -> bool:
    """Whether a ReduceMean is over the last dimension; the axes are an input from opset 18 on."""
    if len(reduce.input) == 1:
        return attribute(reduce, "axes") == [-1]
    axes = graph.constant(reduce.input[1])
    return axes is not None and axes.ravel().tolist() == [-1]
