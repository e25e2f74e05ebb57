"""Clean-up of an exported ONNX graph."""

import onnx

from sparsification.runtime.graph import Graph, Op

# x * (0.5 * (1 + erf(x / sqrt 2))), as the dynamo exporter writes GELU below opset 20
_GELU = Op(
    "Mul", "x", Op("Mul", "half", Op("Add", Op("Erf", Op("Div", "x", "root")), "one", name="sum"), name="product")
)


def deduplicate(graph: onnx.GraphProto) -> None:
    """Remove the exporter's Identity nodes, and merge QuantizeLinear nodes with the same inputs.

    Query, key and value have the same input, hence the same range: the exporter has merged their scales into one
    initializer already.
    """
    outputs = {output.name for output in graph.output}
    other_name: dict[str, str] = {}
    quantized: dict[tuple[str, ...], str] = {}
    nodes = []
    for node in graph.node:
        node.input[:] = [other_name.get(name, name) for name in node.input]
        if node.op_type == "Identity" and node.output[0] not in outputs:
            other_name[node.output[0]] = node.input[0]
            continue
        if node.op_type == "QuantizeLinear" and node.output[0] not in outputs:
            same = quantized.setdefault(tuple(node.input), node.output[0])
            if same != node.output[0]:
                other_name[node.output[0]] = same
                continue
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove what the dynamo exporter adds to a graph, and set the oldest IR version that the opset allows.

    - The stack trace of each node, which contains the paths of source files.
    - The shapes between nodes. With them, ONNX Runtime 1.32 fuses residual sums and LayerNormalization into its
      SkipLayerNormalization, which is slower on the CPU: a BERT takes a sixth to a quarter longer.
    - The newest IR version, which older engines do not load.
    """
    graph = model.graph
    del graph.value_info[:]
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))


def reorder_gelu(model: onnx.ModelProto) -> None:
    """Write GELU as (x * (1 + erf(x / sqrt 2))) * 0.5, which has the same values.

    ONNX Runtime fuses GELU and the bias before it only in this order of the factors.
    """
    graph = Graph(model)
    matches = [graph.match(node.output[0], _GELU) for node in model.graph.node if node.op_type == "Mul"]
    for match in matches:
        if match is None or graph.scalar(match["half"]) != 0.5 or not graph.is_used_only_in(match):
            continue
        product = graph.maker[match["product"]]
        product.input[:] = [match["x"], match["sum"]]
        match.nodes[0].input[:] = [match["product"], match["half"]]
