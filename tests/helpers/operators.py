"""Models of one sparse operator, and their sessions on each instruction set."""

import ctypes
import math
from collections.abc import Callable, Iterator

import numpy as np
import onnx
import onnxruntime
from hypothesis import HealthCheck, settings
from onnx import helper, numpy_helper

from sparsification.runtime.build import available_kernels, build
from sparsification.runtime.rewrite.linear import DOMAIN

property_test = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)


def each_instruction_set() -> Iterator[str]:
    """Select one after the other for the sessions that are made then; the fastest stays."""
    library = ctypes.CDLL(str(build()))
    for name in reversed(available_kernels()):
        assert library.sparsification_select_kernels(name.encode())
        yield name


def make_model(op: str, feeds: dict, constants: dict, outputs: dict[str, int], attributes: dict) -> onnx.ModelProto:
    """A model of one node. What it is fed and its constants are by input name, in the node's order."""
    node = helper.make_node(op, [*feeds, *constants], list(outputs), domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in attributes.items())
    types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in feeds.items()}
    graph = helper.make_graph(
        [node],
        "test",
        [helper.make_tensor_value_info(name, types[name], [None] * feeds[name].ndim) for name in feeds],
        [helper.make_tensor_value_info(name, dtype, None) for name, dtype in outputs.items()],
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in constants.items()],
    )
    opsets = [helper.make_opsetid("", 14), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def make_session(op: str, feeds: dict, constants: dict, outputs: dict[str, int], attributes: dict, threads: int = 1):
    """A session of such a model."""
    model = make_model(op, feeds, constants, outputs, attributes)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.register_custom_ops_library(str(build()))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def pack(weight: np.ndarray, width: int = 4) -> dict[str, np.ndarray]:
    """A weight [out, in] as the file has it; written here anew, entry by entry."""
    counts, gaps, values = [], [], []
    padded = np.pad(weight, [(0, 0), (0, -weight.shape[1] % width)])
    for row in padded:
        count, gap = 0, 0
        for entry in row.reshape(-1, width):
            if entry.any() or gap == 255:
                gaps.append(gap)
                values.append(entry)
                count, gap = count + 1, 0
            else:
                gap += 1
        counts.append(count)
    array = np.array(values, weight.dtype)
    return {
        "counts": np.array(counts, np.uint32),
        "gaps": np.array(gaps, np.uint8),
        "values": array.reshape(-1) if width == 1 else array.reshape(-1, width),
    }


def gelu(x: np.ndarray) -> np.ndarray:
    return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.astype(float).ravel()]).reshape(x.shape)


def replaced(index: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    """A change of one element."""

    def change(array):
        array = array.copy()
        array.reshape(-1)[index] = value
        return array

    return change
