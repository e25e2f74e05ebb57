"""Random graphs of int8 Linear layers in the forms that tools write, with the outputs that numpy computes."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import GraphOptimizationLevel

LEVELS = [
    GraphOptimizationLevel.ORT_DISABLE_ALL,
    GraphOptimizationLevel.ORT_ENABLE_BASIC,
    GraphOptimizationLevel.ORT_ENABLE_ALL,
]
# Second and third: MatMulInteger with constant parameters, as SparseML writes it, and with dynamic ones.
FORMS = ["QDQ", "integers", "dynamic", "QLinearMatMul", "QGemm"]
WEIGHTS = ["int8", "uint8", "asymmetric int8", "asymmetric uint8"]
_KINDS = {np.dtype(np.uint8): TensorProto.UINT8, np.dtype(np.int8): TensorProto.INT8}


def _random_integers(generator, kind, shape=()) -> np.ndarray:
    return generator.integers(np.iinfo(kind).min, np.iinfo(kind).max + 1, shape).astype(kind)


def _make_input(generator, case) -> tuple[np.ndarray, np.ndarray, np.float32, np.ndarray]:
    """The graph's input, and its integers, scale and zero point."""
    dynamic, shape = case["form"] == "dynamic", tuple(case["shape"])
    if case["form"] == "QGemm" and len(shape) != 1:
        shape = (3,)  # it takes matrices
    elif dynamic and 0 in shape:
        shape = (2, 5)  # an empty tensor has no smallest number
    shape = (*shape, case["inputs"])
    kind = np.int8 if case["signed"] and not dynamic else np.uint8
    zero, integers = _random_integers(generator, kind), _random_integers(generator, kind, shape)
    if not dynamic:
        return integers, integers, np.float32(generator.uniform(0.01, 0.1)), zero
    if integers.size == 1:
        zero[...] = 0
        integers[...] = 255
    else:
        integers.flat[0], integers.flat[-1] = 0, 255
    scale = np.float32(2.0**-5)  # DynamicQuantizeLinear finds this scale and these integers without rounding
    return (integers.astype(np.float32) - zero) * scale, integers, scale, zero


def _make_weight(generator, case, outputs) -> tuple[np.ndarray, np.ndarray]:
    """Integers [inputs, outputs], those at zero being its zero points, and the zero points."""
    kind = np.uint8 if "uint8" in case["weights"] else np.int8
    weight, size = _random_integers(generator, kind, (case["inputs"], outputs)), outputs if case["channel"] else ()
    zero = np.full(size, 128 if kind == np.uint8 else 0, kind)
    if "asymmetric" in case["weights"]:
        zero = _random_integers(generator, kind, size)
    return np.where(generator.random(weight.shape) < case["zeros"], zero, weight), zero


def make_graph(case) -> tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """A model of int8 Linear layers with one input, that input, and the outputs that numpy computes."""
    generator = np.random.default_rng(case["seed"])
    form = case["form"]
    given, x, scale, zero_point = _make_input(generator, case)
    constants = {"x_scale": scale, "x_zero": zero_point}
    nodes, results, expected = [], [], {}
    for index, outputs in enumerate(case["outputs"]):
        weight, weight_zero = _make_weight(generator, case, outputs)
        scales = generator.uniform(0.001, 0.01, outputs if case["channel"] else ()).astype(np.float32)
        constants |= {f"w{index}": weight, f"w_zero{index}": weight_zero}
        is_operator, last = form in ("QLinearMatMul", "QGemm"), f"y{index}"
        bias = generator.normal(size=outputs).astype(np.float32)
        quantizes, has_bias = case["quantize"] or form == "QLinearMatMul", case["bias"] and form != "QLinearMatMul"
        y_kind = np.int8 if case["signed_output"] else np.uint8
        y_scale, y_zero = np.float32(generator.uniform(0.01, 0.2)), _random_integers(generator, y_kind)
        if quantizes:
            constants |= {f"y_scale{index}": y_scale, f"y_zero{index}": y_zero}
        if form in ("integers", "dynamic"):
            names = ["x", "x_scale", "x_zero"]
            if form == "integers":
                constants[f"scale{index}"] = scales * scale
            else:
                owner = 0 if case["shares"] else index
                names = [f"x{owner}", f"x_scale{owner}", f"x_zero{owner}"]
                constants[f"w_scale{index}"] = scales
                if owner == index:
                    nodes.append(helper.make_node("DynamicQuantizeLinear", ["x"], names))
                nodes.append(helper.make_node("Mul", [names[1], f"w_scale{index}"], [f"scale{index}"]))
            factors = [names[0], f"w{index}", names[2], f"w_zero{index}"]
            nodes += [
                helper.make_node("MatMulInteger", factors, [f"sums{index}"]),
                helper.make_node("Cast", [f"sums{index}"], [f"numbers{index}"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"numbers{index}", f"scale{index}"], [last]),
            ]
        elif is_operator:
            constants[f"w_scale{index}"] = scales
            names = ["x", "x_scale", "x_zero", f"w{index}", f"w_scale{index}", f"w_zero{index}"]
            options = {}
            if form == "QGemm":
                options = {"domain": "com.microsoft", "transB": int(case["shares"])}
                constants[f"w{index}"] = np.ascontiguousarray(weight.T) if case["shares"] else weight
                names.append(f"b{index}" if has_bias else "")
                if has_bias:
                    integers = np.rint(bias / (scales * scale)).astype(np.int32)
                    constants[f"b{index}"], bias = integers, integers.astype(np.float32) * (scales * scale)
            last = f"q{index}" if quantizes else last
            nodes.append(
                helper.make_node(form, names + [f"y_scale{index}", f"y_zero{index}"] * quantizes, [last], **options)
            )
        else:
            constants[f"w_scale{index}"] = scales
            source = "x_values" if case["shares"] else f"x_values{index}"
            if index == 0 or not case["shares"]:
                nodes.append(helper.make_node("DequantizeLinear", ["x", "x_scale", "x_zero"], [source]))
            names = [f"w{index}", f"w_scale{index}", f"w_zero{index}"]
            nodes.append(helper.make_node("DequantizeLinear", names, [f"w_values{index}"], axis=1))
            nodes.append(helper.make_node("MatMul", [source, f"w_values{index}"], [last]))
        sums = (x.astype(np.int64) - int(zero_point)) @ (weight.astype(np.int64) - weight_zero)
        y = sums.astype(np.float32) * (scales * scale)
        if has_bias:
            y = y + bias
            if not is_operator:
                constants[f"b{index}"] = bias
                nodes.append(helper.make_node("Add", [f"b{index}", last], [f"z{index}"]))
                last = f"z{index}"
        if not quantizes or (case["also_output"] and not is_operator):
            results.append((last, TensorProto.FLOAT))
            expected[last] = y
        if quantizes:
            if not is_operator:
                names = [last, f"y_scale{index}", f"y_zero{index}"]
                last = f"q{index}"
                nodes.append(helper.make_node("QuantizeLinear", names, [last]))
            limits = np.iinfo(y_kind)
            results.append((last, _KINDS[np.dtype(y_kind)]))
            expected[last] = np.clip(np.rint(y / y_scale) + int(y_zero), limits.min, limits.max).astype(y_kind)
    sizes = given.shape if case["static"] else [None] * (given.ndim - 1) + [case["inputs"]]
    kind = TensorProto.FLOAT if form == "dynamic" else _KINDS[given.dtype]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, sizes)],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in results],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), {"x": given}, expected
