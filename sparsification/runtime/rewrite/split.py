"""Layers whose output is split into parts, one of which goes through a GELU: the first of a gated feed-forward block.

ModernBERT has such blocks (GeGLU, Shazeer 2020, arXiv:2002.05202).
"""

import copy
from collections.abc import Mapping
from itertools import pairwise
from typing import TypeVar

import numpy as np
from onnx import NodeProto

from sparsification.runtime.graph import Graph, attribute
from sparsification.runtime.rewrite.float_linear import FloatLinear
from sparsification.runtime.rewrite.linear import Linear

_LAST_AXES = (-1, 2)  # of (batch, tokens, width)
Layer = TypeVar("Layer", Linear, FloatLinear)


def split_gated(graph: Graph, linears: Mapping[str, Layer], gelus: Mapping[str, str]) -> list[Layer]:
    """Make a layer of each part, so that one of them computes the GELU and no node copies the parts.

    Args:
        graph: not changed.
        linears: layers, by the names of their outputs.
        gelus: result of ``find_gelus``.

    Returns:
        The layers, each one that is split replaced by those of its parts.
    """
    found: list[Layer] = []
    for linear in linears.values():
        node = graph.single_consumer(linear.output, "Split")
        edges = None if node is None else _edges(graph, node, len(linear.weight))
        if node is None or edges is None or not any(part in gelus for part in node.output):
            found.append(linear)
            continue
        for part, (start, end) in zip(node.output, pairwise(edges), strict=True):
            piece = copy.copy(linear)
            piece.output, piece.weight, piece.bias = part, linear.weight[start:end], linear.bias[start:end]
            if isinstance(linear, Linear) and isinstance(piece, Linear):
                piece.scale = linear.scale[start:end]
            found.append(piece)
    return found


def _edges(graph: Graph, node: NodeProto, width: int) -> list[int] | None:
    """Where the parts of a Split of the last of three axes begin and end; None if it is another one."""
    sizes = graph.constant(node.input[1]) if len(node.input) > 1 else None
    if len(node.input) == 1 and width % len(node.output) == 0:
        sizes = np.full(len(node.output), width // len(node.output))
    if sizes is None or sizes.sum() != width or attribute(node, "axis") not in _LAST_AXES:
        return None
    return [0, *map(int, np.cumsum(sizes))]
