"""How does an int8 file become one that is fast when it is sparse?

``rewrite_sparse`` takes what the project's export writes for ONNX Runtime (QDQ form), and rewrites it with operators of
``operators.cpp``. A Linear layer of enough zeros becomes one node that holds its non-zero 1x4 blocks only; then the
neighbours join in, as the profile of the unfused graph suggests:

- query, key and value as one node with one output of integers,
- all of attention between them and the next layer's integers as one,
- GELU and the next layer's quantization in the layer before it,
- the residual sum, LayerNormalization and quantization as one.

The numbers are those of the int8 graph: the same grids, the same order of rounding, sums of products exact. What the
patterns do not know stays as it is, and so does a layer that is too dense: the engine's own product is faster there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto

from sparsification.atomic_io import atomic_path
from sparsification.errors import SparsificationError
from sparsification.runtime.graph import Graph

DOMAIN = "sparsification"
BLOCK = 4  # neighbouring inputs of one output
# Up to this share of non-zero blocks our product is the faster one. For the layers of BERT base and MiniLM, at 128 and
# 384 tokens, the two are equal at 63 to 72 % on AMD Zen 4 with VNNI (benchmarks/break_even.md).
BREAK_EVEN = 0.6
SPARSE_FILE = "model.sparse.onnx"


class SparseGraphError(SparsificationError, ValueError):
    """The file is no int8 graph of the export, or nothing in it is sparse enough."""


@dataclass(frozen=True)
class ConversionReport:
    """What became of a file."""

    path: Path
    sparse: dict[str, float]  # share of non-zero blocks of the layers that are sparse now, by their weights' names
    dense: dict[str, float]  # and of those that are as they were
    fused: dict[str, int]  # how many nodes of each operator of ours there are
    size_bytes: int


@dataclass(frozen=True)
class _QuantParams:
    """A QuantizeLinear's or DequantizeLinear's parameters, one for the whole tensor."""

    scale: np.float32
    zero_point: int
    signed: bool


@dataclass
class _Linear:
    """A Linear layer on integers."""

    name: str  # its weight's
    input: str  # the tensor of uint8
    qparams: _QuantParams  # of the input
    weight: np.ndarray  # int8 [out, in]
    scale: np.ndarray  # of the weight, fp32 [out]
    bias: np.ndarray  # fp32 [out]
    output: str
    density: float  # share of blocks that are not all zeros


def rewrite_sparse(
    source: str | Path, target: str | Path | None = None, break_even: float = BREAK_EVEN
) -> ConversionReport:
    """Write the sparse form of an int8 file.

    Args:
        source: an int8 ``model.onnx`` of ``export_onnx`` for ONNX Runtime.
        target: ``model.sparse.onnx`` beside it by default.
        break_even: layers whose share of non-zero 1x4 blocks is larger stay dense.

    Raises:
        SparseGraphError: there is no int8 layer, or none that sparse; then no file is written.
    """
    source = Path(source)
    target = source.with_name(SPARSE_FILE) if target is None else Path(target)
    model = onnx.load(source)
    graph = Graph(model)
    linears = _find_linears(graph)
    if not linears:
        raise SparseGraphError(
            f"{source} has no Linear layer in int8 with symmetric weights: quantize the model first, see "
            "recipes/quantize.md"
        )
    sparse = {name for name, linear in linears.items() if linear.density <= break_even}
    if not sparse:
        raise SparseGraphError(
            f"{source}: no int8 Linear layer has {1 - break_even:.0%} or more of its 1x4 blocks zero (the sparsest has "
            f"{1 - min(x.density for x in linears.values()):.0%}): the dense file is the faster one"
        )
    _fuse_norms(graph)
    done = _fuse_attention(graph, linears, sparse)
    for name in sparse - done:
        _replace_linear(graph, linears[name])
    graph.remove_unused()
    model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    with atomic_path(target) as partial:
        onnx.save(model, partial)
    ours = [node.op_type for node in model.graph.node if node.domain == DOMAIN]
    return ConversionReport(
        path=target,
        sparse={x.name: x.density for x in linears.values() if x.output in sparse},
        dense={x.name: x.density for x in linears.values() if x.output not in sparse},
        fused={op_type: ours.count(op_type) for op_type in sorted(set(ours))},
        size_bytes=target.stat().st_size,
    )


# Patterns


def _qparams(graph: Graph, node: NodeProto) -> _QuantParams | None:
    """The grid of a node, if it is one for the whole tensor."""
    scale = graph.scalar(node.input[1])
    zero_point = graph.scalar(node.input[2]) if len(node.input) > 2 else np.uint8(0)
    if scale is None or zero_point is None or zero_point.dtype not in (np.uint8, np.int8):
        return None
    return _QuantParams(np.float32(scale), int(zero_point), zero_point.dtype == np.int8)


def _perm(node: NodeProto) -> list[int]:
    return next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), [])


def _close(array: np.ndarray, value: float) -> bool:
    return array.size == 1 and abs(float(array.ravel()[0]) - value) <= 1e-6 * abs(value)


def _find_linears(graph: Graph) -> dict[str, _Linear]:
    """All Linear layers on integers, by the tensors that they make."""
    found = {}
    for node in graph.model.graph.node:
        if node.op_type != "MatMul":
            continue
        left, right = (graph.producer(name, "DequantizeLinear") for name in node.input)
        if left is None or right is None:
            continue
        qparams, weight, scale = _qparams(graph, left), graph.constant(right.input[0]), graph.constant(right.input[1])
        zero_points = graph.constant(right.input[2]) if len(right.input) > 2 else np.zeros(1, np.int8)
        if qparams is None or qparams.signed or weight is None or weight.dtype != np.int8 or weight.ndim != 2:
            continue
        # A zero of an asymmetric weight is not an integer of 0.
        if scale is None or zero_points is None or zero_points.any() or weight.shape[0] > 2**16:
            continue
        width = weight.shape[1]
        bias, output = np.zeros(width, np.float32), node.output[0]
        add = graph.single_consumer(output, "Add")
        if add is not None:
            constant = graph.constant(graph.other_input(add, output))
            if constant is not None and constant.shape == (width,):
                bias, output = constant, add.output[0]
        found[output] = _Linear(
            name=right.input[0],
            input=left.input[0],
            qparams=qparams,
            weight=weight.T,
            scale=np.broadcast_to(scale.astype(np.float32).reshape(-1), (width,)),
            bias=bias,
            output=output,
            density=float(_blocks(weight.T).any(-1).mean()),
        )
    return found


def _blocks(weight: np.ndarray) -> np.ndarray:
    """A weight [out, in] as [out, groups, 4], with zeros where the last group is not full."""
    rows, columns = weight.shape
    padded = np.zeros((rows, -(-columns // BLOCK) * BLOCK), weight.dtype)
    padded[:, :columns] = weight
    return padded.reshape(rows, -1, BLOCK)


# Linear layers


def _replace_linear(graph: Graph, linear: _Linear) -> None:
    """Make a layer one node, with GELU and the next quantization in it where they follow."""
    output = linear.output
    after = _gelu_of(graph, output)
    gelu = after is not None
    output = after or output
    quantize = graph.single_consumer(output, "QuantizeLinear")
    qparams = _qparams(graph, quantize) if quantize is not None else None
    if qparams is None or qparams.signed:
        _add_linear(graph, [linear], output, None, gelu)
    else:
        _add_linear(graph, [linear], quantize.output[0], [qparams], gelu)


def _gelu_of(graph: Graph, name: str) -> str | None:
    """The tensor that is the GELU of another one, if that goes nowhere else."""
    gelu = graph.single_consumer(name, "Gelu")
    if gelu is not None:
        exact = all(attribute.s != b"tanh" for attribute in gelu.attribute)
        return gelu.output[0] if exact else None
    # x * (1 + erf(x / sqrt 2)) * 0.5, the factors in any order
    for divide in graph.consumers(name, "Div", "Mul"):
        split = graph.split_constant(divide)
        root = 2**0.5 if divide.op_type == "Div" else 0.5**0.5
        if split is None or split[0] != name or not _close(split[1], root):
            continue
        erf = graph.single_consumer(divide.output[0], "Erf")
        add = graph.single_consumer(erf.output[0], "Add") if erf is not None else None
        product = graph.single_consumer(add.output[0], "Mul") if add is not None else None
        half = graph.single_consumer(product.output[0], "Mul") if product is not None else None
        if half is None or graph.other_input(product, add.output[0]) != name or len(graph.consumers(name)) != 2:
            continue
        one, factor = graph.split_constant(add), graph.split_constant(half)
        if one is not None and factor is not None and _close(one[1], 1.0) and _close(factor[1], 0.5):
            return half.output[0]
    return None


def _add_linear(
    graph: Graph, linears: Sequence[_Linear], output: str, qparams: Sequence[_QuantParams] | None, gelu: bool
) -> None:
    """Add one node for layers on the same input, their outputs beside each other; ``grids`` if they are integers."""
    name = linears[0].name
    blocks = np.concatenate([_blocks(linear.weight) for linear in linears])
    kept = blocks.any(-1)
    # As the engine does it: the product of the two scales first.
    scale = np.concatenate([linear.scale * linear.qparams.scale for linear in linears])
    arrays = {
        "counts": kept.sum(-1).astype(np.uint16),
        "indices": np.nonzero(kept)[1].astype(np.uint16),
        "values": blocks[kept],
        "scale": scale,
        "bias": np.concatenate([linear.bias for linear in linears]).astype(np.float32),
    }
    if qparams is not None:
        widths = [len(linear.weight) for linear in linears]
        arrays["output_scale"] = np.repeat([qparams.scale for qparams in qparams], widths).astype(np.float32)
        # An int8 grid as uint8: all of it moves by 128.
        zero_points = [qparams.zero_point + 128 * qparams.signed for qparams in qparams]
        arrays["output_zero_point"] = np.repeat(zero_points, widths).astype(np.uint8)
    graph.add_node(
        "SparseLinear" if qparams is None else "SparseLinearQuantized",
        [linears[0].input, *(graph.add_constant(f"{name}.{key}", array) for key, array in arrays.items())],
        [output],
        DOMAIN,
        inputs=linears[0].weight.shape[1],
        zero_point=linears[0].qparams.zero_point,
        gelu=int(gelu),
    )


# Residual sum and LayerNormalization


def _fuse_norms(graph: Graph) -> None:
    for node in list(graph.model.graph.node):
        found = _norm(graph, node)
        if found is None:
            continue
        name, gamma, beta, epsilon = found
        add = graph.producer(name, "Add")
        quantizes = [
            user for user in graph.consumers(node.output[0], "QuantizeLinear") if _qparams(graph, user) is not None
        ]
        quantizes = [user for user in quantizes if not _qparams(graph, user).signed]
        if add is None or not quantizes or any(graph.constant(term) is not None for term in add.input):
            continue
        if len(graph.consumers(name)) > (1 if node.op_type == "LayerNormalization" else 2) or name in graph.outputs:
            continue
        qparams = _qparams(graph, quantizes[0])
        graph.add_node(
            "AddNormQuantize",
            [*add.input, gamma, beta],
            [node.output[0], quantizes[0].output[0]],
            DOMAIN,
            epsilon=float(epsilon),
            scale=float(qparams.scale),
            zero_point=qparams.zero_point,
        )


def _norm(graph: Graph, node: NodeProto) -> tuple[str, str, str, float] | None:
    """If a node ends a LayerNormalization over the last dimension: its input, weight and bias, and epsilon."""
    if node.op_type == "LayerNormalization":
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if attributes.get("axis", -1) != -1 or len(node.input) != 3:
            return None
        return node.input[0], node.input[1], node.input[2], attributes.get("epsilon", 1e-5)
    # (x - mean) / sqrt(mean((x - mean) ** 2) + epsilon) * gamma + beta, as PyTorch's exporter writes it
    if node.op_type != "Add":
        return None
    multiply = graph.producer(node.input[0], "Mul")
    divide = graph.producer(multiply.input[0], "Div") if multiply is not None else None
    subtract = graph.producer(divide.input[0], "Sub") if divide is not None else None
    root = graph.producer(divide.input[1], "Sqrt") if subtract is not None else None
    sum_ = graph.producer(root.input[0], "Add") if root is not None else None
    variance = graph.producer(sum_.input[0], "ReduceMean") if sum_ is not None else None
    power = graph.producer(variance.input[0], "Pow") if variance is not None else None
    if power is None or power.input[0] != divide.input[0]:
        return None
    mean = graph.producer(subtract.input[1], "ReduceMean")
    if mean is None or mean.input[0] != subtract.input[0] or not all(_over_last(graph, x) for x in (mean, variance)):
        return None
    exponent, epsilon = graph.scalar(power.input[1]), graph.scalar(sum_.input[1])
    gamma, beta = multiply.input[1], node.input[1]
    if exponent != 2 or epsilon is None or graph.constant(gamma) is None or graph.constant(beta) is None:
        return None
    return subtract.input[0], gamma, beta, float(epsilon)


def _over_last(graph: Graph, node: NodeProto) -> bool:
    """Whether a ReduceMean goes over the last dimension; its axes are an input from opset 18 on."""
    axes = [list(attribute.ints) for attribute in node.attribute if attribute.name == "axes"]
    if len(node.input) > 1:
        constant = graph.constant(node.input[1])
        axes = [] if constant is None else [constant.ravel().tolist()]
    return axes == [[-1]]


# Attention


@dataclass(frozen=True)
class _Factor:
    """Query, key or value: what it is made of, and its integers' grid."""

    source: str  # fp32 [batch, length, width], a Linear layer's output
    head_size: int
    qparams: _QuantParams  # with which it becomes integers
    scale: np.float32  # with which these become numbers again


def _fuse_attention(graph: Graph, linears: dict[str, _Linear], sparse: set[str]) -> set[str]:
    """Make each attention one node; gives those of the sparse layers that are nodes now, too."""
    done: set[str] = set()
    masks: dict[str, str] = {}
    for node in list(graph.model.graph.node):
        if node.op_type == "Softmax":
            done |= _fuse_one_attention(graph, node, linears, sparse, masks)
    return done


def _fuse_one_attention(
    graph: Graph, softmax: NodeProto, linears: dict[str, _Linear], sparse: set[str], masks: dict[str, str]
) -> set[str]:
    add = graph.producer(softmax.input[0], "Add")
    if add is None:
        return set()
    scores = next((graph.producer(name, "MatMul") for name in add.input if graph.producer(name, "MatMul")), None)
    quantize = graph.single_consumer(softmax.output[0], "QuantizeLinear")
    dequantize = graph.single_consumer(quantize.output[0], "DequantizeLinear") if quantize is not None else None
    product = graph.single_consumer(dequantize.output[0], "MatMul") if dequantize is not None else None
    transpose = graph.single_consumer(product.output[0], "Transpose") if product is not None else None
    reshape = graph.single_consumer(transpose.output[0], "Reshape") if transpose is not None else None
    end = graph.single_consumer(reshape.output[0], "QuantizeLinear") if reshape is not None else None
    if scores is None or end is None or _perm(transpose) != [0, 2, 1, 3]:
        return set()
    swap = graph.producer(scores.input[1], "Transpose")
    if swap is None or _perm(swap) != [0, 1, 3, 2]:
        return set()
    factors = [_factor(graph, name) for name in (scores.input[0], swap.input[0], product.input[1])]
    qparams = [_qparams(graph, x) for x in (quantize, dequantize, end)]
    if None in factors or None in qparams or qparams[0] != qparams[1] or qparams[0].signed or qparams[2].signed:
        return set()
    query, key, value = factors
    layers = [linears.get(factor.source) for factor in factors]
    if query.qparams.signed or not (key.qparams.signed and value.qparams.signed) or None in layers:
        return set()
    widths = {len(layer.weight) for layer in layers}
    sizes = {factor.head_size for factor in factors}
    if len(widths) != 1 or len(sizes) != 1 or (width := widths.pop()) % (size := sizes.pop()):
        return set()

    mask = graph.other_input(add, scores.output[0])
    if mask not in masks:
        masks[mask] = _simple_mask(graph, mask)
    inputs = _integers(graph, factors, layers, sparse)
    graph.add_node(
        "QuantizedAttention",
        [*inputs, masks[mask]],
        [end.output[0]],
        DOMAIN,
        heads=width // size,
        head_size=size,
        query_offset=0,
        key_offset=width if inputs[0] == inputs[1] else 0,
        value_offset=2 * width if inputs[0] == inputs[1] else 0,
        query_zero_point=query.qparams.zero_point,
        key_zero_point=key.qparams.zero_point,
        value_zero_point=value.qparams.zero_point,
        score_scale=float(query.scale * key.scale),
        probability_scale=float(qparams[0].scale),
        probability_zero_point=qparams[0].zero_point,
        context_scale=float(qparams[0].scale * value.scale),
        output_scale=float(qparams[2].scale),
        output_zero_point=qparams[2].zero_point,
    )
    return sparse & {layer.output for layer in layers}


def _factor(graph: Graph, name: str) -> _Factor | None:
    """Query, key or value, seen from where it is a number again."""
    dequantize = graph.producer(name, "DequantizeLinear")
    quantize = graph.producer(dequantize.input[0], "QuantizeLinear") if dequantize is not None else None
    transpose = graph.producer(quantize.input[0], "Transpose") if quantize is not None else None
    reshape = graph.producer(transpose.input[0], "Reshape") if transpose is not None else None
    if reshape is None or _perm(transpose) != [0, 2, 1, 3]:
        return None
    # Nobody else may want the numbers.
    if any(
        graph.single_consumer(x, y.op_type) is None
        for x, y in ((reshape.input[0], reshape), (reshape.output[0], transpose))
    ):
        return None
    if graph.single_consumer(transpose.output[0], "QuantizeLinear") is None:
        return None
    qparams, back = _qparams(graph, quantize), _qparams(graph, dequantize)
    size = _last_dimension(graph, reshape.input[1])
    if (
        qparams is None
        or back is None
        or size is None
        or (qparams.zero_point, qparams.signed) != (back.zero_point, back.signed)
    ):
        return None
    return _Factor(reshape.input[0], size, qparams, back.scale)


def _last_dimension(graph: Graph, shape: str) -> int | None:
    """The last number of a shape, constant or put together from numbers of which the last one is."""
    array = graph.constant(shape)
    if array is None:
        concat = graph.producer(shape, "Concat")
        array = graph.constant(concat.input[-1]) if concat is not None else None
    return int(array.ravel()[-1]) if array is not None and array.size and array.ravel()[-1] > 0 else None


def _integers(graph: Graph, factors: Sequence[_Factor], layers: Sequence[_Linear], sparse: set[str]) -> list[str]:
    """The tensors of integers of query, key and value, before they are cut into heads; one three times if it is one."""
    together = len({(layer.input, layer.qparams) for layer in layers}) == 1
    if together and all(layer.output in sparse for layer in layers):
        output = f"{layers[0].output}.key.value"
        _add_linear(graph, layers, output, [factor.qparams for factor in factors], gelu=False)
        return [output] * 3
    names = []
    for factor, layer in zip(factors, layers, strict=True):
        name = f"{layer.output}.integers"
        if layer.output in sparse:
            _add_linear(graph, [layer], name, [factor.qparams], gelu=False)
        else:
            dtype = np.int8 if factor.qparams.signed else np.uint8
            scale = graph.add_constant(f"{name}.scale", np.array(factor.qparams.scale, np.float32))
            zero_point = graph.add_constant(f"{name}.zero_point", np.array(factor.qparams.zero_point, dtype))
            graph.add_node("QuantizeLinear", [layer.output, scale, zero_point], [name])
        names.append(name)
    return names


def _simple_mask(graph: Graph, mask: str) -> str:
    """The mask that is added to the scores, made in three nodes where it only says which tokens are padding.

    Transformers makes it in forty, [batch, 1, length, length], for masks of all kinds. Which kind it is shows when they
    run on a few random inputs.
    """
    if "attention_mask" not in graph.inputs or not _hides_padding_only(graph, mask):
        return mask
    visible, zero_or_least, name = (f"attention_mask.{part}" for part in ("visible", "added", "mask"))
    graph.add_node("Cast", ["attention_mask"], [visible], to=onnx.TensorProto.BOOL)
    zero = graph.add_constant("attention_mask.zero", np.array(0, np.float32))
    least = graph.add_constant("attention_mask.least", np.array(np.finfo(np.float32).min))
    graph.add_node("Where", [visible, zero, least], [zero_or_least])
    axes = graph.add_constant("attention_mask.axes", np.array([1, 2], np.int64))
    graph.add_node("Unsqueeze", [zero_or_least, axes], [name])
    return name


def _hides_padding_only(graph: Graph, mask: str) -> bool:
    import onnxruntime

    part = onnx.ModelProto()
    part.CopyFrom(graph.model)
    cut = Graph(part)
    cut.outputs = [mask]
    del part.graph.output[:]
    part.graph.output.append(onnx.helper.make_tensor_value_info(mask, onnx.TensorProto.FLOAT, None))
    cut.remove_unused()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(part.SerializeToString(), options, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    for batch, length in ((1, 5), (3, 8), (2, 3)):
        visible = generator.integers(0, 2, (batch, length))
        feed = {node.name: np.zeros((batch, length), np.int64) for node in session.get_inputs()}
        if "attention_mask" not in feed:
            return False
        (actual,) = session.run(None, feed | {"attention_mask": visible})
        least = np.finfo(np.float32).min
        expected = np.where(visible[:, None, None, :] != 0, np.float32(0), least)
        if actual.dtype != np.float32 or actual.ndim != 4 or actual.shape[-1] != length:
            return False
        if not np.array_equal(np.broadcast_to(actual, (batch, 1, length, length)), expected.repeat(length, axis=2)):
            return False
    return True
