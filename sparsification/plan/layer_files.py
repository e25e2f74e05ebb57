"""ONNX files of single linear layers, in the form of the project's export."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from transformers import PreTrainedModel

from sparsification.cpu import weight_bits
from sparsification.plan.engines import served
from sparsification.plan.rounding import round_weight
from sparsification.plan.units import DENSE, MASK_TYPES, PATTERNS, Option, Unit, options
from sparsification.pruning import masks
from sparsification.runtime.rewrite import SparseGraphError

Layers = dict[tuple[int, int], dict[Option, Path]]  # files by shape and option


def write_layer(weight: np.ndarray, path: Path) -> Path:
    """Write a layer of a weight [outputs, inputs] in the form of the project's export."""
    outputs = len(weight)
    arrays: dict[str, np.ndarray] = {
        "x_scale": np.array(0.02, np.float32),
        "x_zero": np.array(128, np.uint8),
        "weight": np.ascontiguousarray(weight.T),
        "scale": np.full(outputs, 1e-4, np.float32),
        "zero": np.zeros(outputs, np.int8),
        "bias": np.zeros(outputs, np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "x_scale", "x_zero"], ["x_numbers"]),
        helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["weight_numbers"], axis=1),
        helper.make_node("MatMul", ["x_numbers", "weight_numbers"], ["product"]),
        helper.make_node("Add", ["bias", "product"], ["y"]),
    ]
    return _save(nodes, TensorProto.UINT8, arrays, path)


def write_float_layer(weight: np.ndarray, path: Path) -> Path:
    """Write a layer of an fp32 weight [outputs, inputs] in the form of the project's export."""
    arrays: dict[str, np.ndarray] = {
        "weight": np.ascontiguousarray(weight.T),
        "bias": np.zeros(len(weight), np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["bias", "product"], ["y"]),
    ]
    return _save(nodes, TensorProto.FLOAT, arrays, path)


def _save(nodes: list[onnx.NodeProto], x_type: int, arrays: dict[str, np.ndarray], path: Path) -> Path:
    inputs, outputs = arrays["weight"].shape
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", x_type, ["batch", "tokens", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "tokens", outputs])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), path)
    return path


def write_option(weight: torch.Tensor, option: Option, folder: Path, engine: str) -> Path | None:
    """Write the file of a layer; None if the sparse operators are not faster than the dense one.

    The execution provider runs such a layer dense, and the times say so.
    """
    if option.pattern != DENSE:
        weight = weight * masks.compute_mask(weight.abs(), option.sparsity, MASK_TYPES[option.pattern])
    path = folder / f"{option}.onnx"
    if option.precision == "int8":
        integers, _ = round_weight(weight, weight_bits())
        write_layer(integers.to(torch.int8).numpy(), path)
    else:
        write_float_layer(weight.numpy(), path)
    if option.pattern == DENSE:
        return path
    try:
        return served(path, engine)
    except SparseGraphError:
        return None


def write_layers(model: PreTrainedModel, units: Sequence[Unit], engine: str, folder: Path) -> Layers:
    """Write a layer of each shape, with the weights of the first unit of this shape, pruned by magnitude.

    The rows of real weights have different numbers of large weights, on which the time depends as well.
    """
    parameters = dict(model.named_parameters())
    first: dict[tuple[int, int], Unit] = {}
    for unit in units:
        first.setdefault(unit.shape, unit)
    layers: Layers = {}
    for shape, unit in first.items():
        weight = torch.cat([parameters[name].detach() for name in unit.weights]).float()
        place = folder / "x".join(map(str, shape))
        place.mkdir()
        written = {
            option: write_option(weight, option, place, engine)
            for precision in PATTERNS
            for option in options(precision)
        }
        layers[shape] = {option: path for option, path in written.items() if path}
    return layers
