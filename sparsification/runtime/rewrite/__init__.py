"""Rewrite of an int8 ONNX file with sparse operators.

``rewrite_sparse`` takes an int8 file that the export has written for ONNX Runtime (QDQ form) and replaces parts of it
by the operators of ``csrc``. A Linear layer that is sparse enough becomes one node with its non-zero weights.
Adjacent operators are fused as well, because they take most of the remaining time:

- query, key and value become one node with one output of integers,
- attention between them and the next layer's integers becomes one node,
- GELU and the next layer's quantization become part of the layer before them,
- a residual sum, LayerNormalization and quantization become one node.

The results are those of the int8 graph: same quantization parameters, same order of rounding, exact integer sums. What
no pattern matches stays as it is, and so does a layer that is too dense: the engine's own product is faster there.
"""

from dataclasses import dataclass
from pathlib import Path

import onnx

from sparsification.atomic_io import atomic_path
from sparsification.errors import SparsificationError
from sparsification.runtime.graph import Graph
from sparsification.runtime.rewrite.attention import fuse_attention
from sparsification.runtime.rewrite.cost import layer_cost
from sparsification.runtime.rewrite.layer_norm import fuse_layer_norms
from sparsification.runtime.rewrite.linear import DOMAIN, Linear, find_gelus, find_linears, replace_linear
from sparsification.runtime.rewrite.order import sort_outputs

SPARSE_FILE = "model.sparse.onnx"


class SparseGraphError(SparsificationError, ValueError):
    """A file is not an int8 graph of the export, or no layer of it is sparse enough."""


@dataclass(frozen=True)
class ConversionReport:
    """Result of a rewrite."""

    path: Path
    sparse: dict[str, float]  # share of non-zero weights of each layer that is sparse now, by the name of its weight
    dense: dict[str, float]  # and of each layer that was not changed
    fused: dict[str, int]  # number of nodes of each sparse operator
    size_bytes: int


def rewrite_sparse(source: str | Path, target: str | Path | None = None, always: bool = False) -> ConversionReport:
    """Write the sparse form of an int8 file.

    Args:
        source: an int8 ``model.onnx`` of ``export_onnx`` for ONNX Runtime.
        target: ``model.sparse.onnx`` beside it by default.
        always: make all layers sparse, not only those that are faster then on this CPU.

    Raises:
        BuildError: there is no compiler for the operators, or it failed.
        SparseGraphError: there is no int8 layer, or none is sparse enough; no file is written.
    """
    source = Path(source)
    target = source.with_name(SPARSE_FILE) if target is None else Path(target)
    model = onnx.load(source)
    graph = Graph(model)
    linears = find_linears(graph)
    if not linears:
        raise SparseGraphError(
            f"{source} has no Linear layer in int8 with symmetric weights: quantize the model first, see "
            "recipes/quantize.md"
        )
    sparse = {name: linear for name, linear in linears.items() if always or _pays(linear)}
    if not sparse:
        raise SparseGraphError(
            f"{source}: no int8 Linear layer has so many zeros that the sparse product is faster (the sparsest has "
            f"{1 - min(x.density for x in linears.values()):.0%}): the dense file is the faster one"
        )
    gelus = find_gelus(graph)
    fuse_layer_norms(graph)
    sort_outputs(graph, sparse, gelus)
    done = fuse_attention(graph, linears, sparse.keys())
    for name in sparse.keys() - done:
        replace_linear(graph, linears[name], gelus)
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


def _pays(linear: Linear) -> bool:
    _, cost = layer_cost(linear.weight)
    return min(cost.blocks, cost.windows) < cost.dense
