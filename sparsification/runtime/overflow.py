"""int8 graphs on a CPU without VNNI: ONNX Runtime adds pairs of 8-bit products in 16 bits there, where they overflow.

Where that can happen, sessions compute the products in fp32, which is slower, and right.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from sparsification.cpu import has_vnni

# For ONNX Runtime: compute QuantizeLinear and DequantizeLinear as they stand.
EXACT_OPTION = "session.disable_quant_qdq"
LARGEST = 64  # two products of uint8 and int8 up to here fit 16 bits


def overflows(model: onnx.ModelProto, folder: Path) -> bool:
    """Whether sums of a model's 8-bit products can overflow on this CPU.

    Args:
        model: with or without the data of external tensors.
        folder: of the external tensors.
    """
    return has_vnni() is False and any(_large_factors(model, folder))


def _large_factors(model: onnx.ModelProto, folder: Path) -> Iterator[bool]:
    """For each int8 factor of a product, weights and quantized activations, whether it uses more than 7 bits."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8}
    clipped = {output for node in model.graph.node if node.op_type == "Clip" for output in node.output}
    for node in model.graph.node:
        if node.op_type in ("DequantizeLinear", "MatMulInteger"):
            for name in node.input[:2]:
                if name in tensors and tensors[name].dims:
                    values = numpy_helper.to_array(tensors[name], str(folder)).astype(np.int16)
                    yield bool(np.abs(values).max(initial=0) > LARGEST)
        elif node.op_type == "QuantizeLinear" and node.input[-1] in tensors:
            yield node.input[0] not in clipped


def in_fp32(model: onnx.ModelProto) -> onnx.ModelProto:
    """Compute the products of a model's integers in fp32, where a sum is exact up to 2 ** 24.

    Args:
        model: is changed. With ``EXACT_OPTION`` nothing of it is computed in 8 bits.
    """
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes += _product(node) if node.op_type == "MatMulInteger" else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _product(node: NodeProto) -> list[NodeProto]:
    """A product of integers, whose left zero point is a scalar as everywhere in models of encoders, in fp32."""
    out, names = node.output[0], list(node.input)
    floats = [f"{out}/input{index}" for index in range(len(names))]
    nodes = [helper.make_node("Cast", [a], [b], to=TensorProto.FLOAT) for a, b in zip(names, floats, strict=True)]
    factors = floats[:2]
    for side, zero_point in enumerate(floats[2:]):
        nodes.append(helper.make_node("Sub", [factors[side], zero_point], [f"{out}/factor{side}"]))
        factors[side] = f"{out}/factor{side}"
    nodes.append(helper.make_node("MatMul", factors, [f"{out}/product"]))
    return [*nodes, helper.make_node("Cast", [f"{out}/product"], [out], to=TensorProto.INT32)]
