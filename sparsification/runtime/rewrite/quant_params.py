"""Quantization parameters of QuantizeLinear and DequantizeLinear nodes."""

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from sparsification.runtime.graph import Graph


@dataclass(frozen=True)
class QuantParams:
    """Scale and zero point of a whole tensor."""

    scale: np.float32
    zero_point: int
    signed: bool  # int8, else uint8


def quant_params(graph: Graph, node: NodeProto | None) -> QuantParams | None:
    """The constant per-tensor parameters of a QuantizeLinear or DequantizeLinear node; None if it has none."""
    if node is None:
        return None
    scale = graph.scalar(node.input[1])
    zero_point = graph.scalar(node.input[2]) if len(node.input) > 2 else np.uint8(0)
    if scale is None or zero_point is None or zero_point.dtype not in (np.uint8, np.int8):
        return None
    return QuantParams(np.float32(scale), int(zero_point), zero_point.dtype == np.int8)


def unsigned_params(graph: Graph, node: NodeProto | None) -> QuantParams | None:
    """As ``quant_params``, but None if the integers are signed."""
    params = quant_params(graph, node)
    return None if params is None or params.signed else params
