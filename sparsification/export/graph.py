"""Clean-up of an exported ONNX graph."""

import onnx


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


def finish(model: onnx.ModelProto) -> None:
    """Remove what the dynamo exporter adds for debugging, and set the oldest IR version that the opset allows.

    The exporter writes the stack trace of each node into the file, with the paths of the machine's source files, and
    always its newest IR version, which older engines do not load.
    """
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    model.ir_version = onnx.helper.find_min_ir_version_for(list(model.opset_import))
