"""Random graphs of int8 Linear layers, with the outputs that numpy computes."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import GraphOptimizationLevel

LEVELS = [
    GraphOptimizationLevel.ORT_DISABLE_ALL,
    GraphOptimizationLevel.ORT_ENABLE_BASIC,
    GraphOptimizationLevel.ORT_ENABLE_ALL,
]


def make_graph(case) -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A model of int8 Linear layers with one input, that input, and the outputs that numpy computes."""
    generator = np.random.default_rng(case["seed"])
    inputs, shape = case["inputs"], (*case["shape"], case["inputs"])
    zero_point, scale = np.uint8(generator.integers(0, 256)), np.float32(generator.uniform(0.01, 0.1))
    x = generator.integers(0, 256, shape).astype(np.uint8)
    constants = {"x_scale": scale, "x_zero": zero_point}
    nodes, results, expected = [], [], {}
    for index, outputs in enumerate(case["outputs"]):
        weight = generator.integers(-127, 128, (inputs, outputs)).astype(np.int8)
        weight[generator.random(weight.shape) < case["zeros"]] = 0
        scales = generator.uniform(0.001, 0.01, outputs if case["channel"] else ()).astype(np.float32)
        constants |= {f"w{index}": weight}
        last = f"y{index}"
        if case["integers"]:
            constants[f"scale{index}"] = scales * scale
            nodes += [
                helper.make_node("MatMulInteger", ["x", f"w{index}", "x_zero"], [f"sums{index}"]),
                helper.make_node("Cast", [f"sums{index}"], [f"numbers{index}"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"numbers{index}", f"scale{index}"], [last]),
            ]
        else:
            constants[f"w_scale{index}"] = scales
            source = "x_values" if case["shares"] else f"x_values{index}"
            if index == 0 or not case["shares"]:
                nodes.append(helper.make_node("DequantizeLinear", ["x", "x_scale", "x_zero"], [source]))
            names = [f"w{index}", f"w_scale{index}"]
            nodes.append(helper.make_node("DequantizeLinear", names, [f"w_values{index}"], axis=1))
            nodes.append(helper.make_node("MatMul", [source, f"w_values{index}"], [last]))
        sums = (x.astype(np.int64) - int(zero_point)) @ weight.astype(np.int64)
        y = sums.astype(np.float32) * (scales * scale)
        if case["bias"]:
            bias = generator.normal(size=outputs).astype(np.float32)
            constants[f"b{index}"] = bias
            nodes.append(helper.make_node("Add", [f"b{index}", last], [f"z{index}"]))
            last, y = f"z{index}", y + bias
        if not case["quantize"] or case["also_output"]:
            results.append((last, TensorProto.FLOAT))
            expected[last] = y
        if case["quantize"]:
            y_scale, y_zero = np.float32(generator.uniform(0.01, 0.2)), np.uint8(generator.integers(0, 256))
            constants |= {f"y_scale{index}": y_scale, f"y_zero{index}": y_zero}
            last, before = f"q{index}", last
            nodes.append(helper.make_node("QuantizeLinear", [before, f"y_scale{index}", f"y_zero{index}"], [last]))
            results.append((last, TensorProto.UINT8))
            expected[last] = np.clip(np.rint(y / y_scale) + int(y_zero), 0, 255).astype(np.uint8)
    given_values = [
        helper.make_tensor_value_info(
            "x", TensorProto.UINT8, [*(shape[:-1] if case["static"] else [None] * (len(shape) - 1)), inputs]
        )
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        given_values,
        [helper.make_tensor_value_info(name, kind, None) for name, kind in results],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, {"x": x}, expected
