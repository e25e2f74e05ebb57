"""Rewrite of an ONNX file with sparse operators.

``rewrite_sparse`` takes a file that the export has written, in fp32 or in int8 for ONNX Runtime (QDQ form), and
replaces parts of it by the operators of ``csrc``. A Linear layer that is sparse enough becomes one node with its
non-zero weights. Adjacent operators are fused as well, because they take most of the remaining time:

- query, key and value become one node with one output, in fp32 also the two layers of a feed-forward block,
- attention becomes one node,
- GELU, and in int8 the next layer's quantization, become part of the layer before them; a layer whose output is split
  for a gated GELU becomes two,
- a residual sum, LayerNormalization and quantization become one node.

The results are those of the graph: in int8 same quantization parameters, same order of rounding, exact integer sums; in
fp32 up to rounding. What no pattern matches stays as it is, and so does a layer that is too dense: the engine's own
product is faster there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from sparsification.atomic_io import atomic_path
from sparsification.errors import SparsificationError
from sparsification.runtime.graph import Graph
from sparsification.runtime.rewrite.attention import fuse_attention
from sparsification.runtime.rewrite.cost import layer_costs
from sparsification.runtime.rewrite.float_attention import fuse_float_attention
from sparsification.runtime.rewrite.float_linear import FloatLinear, find_float_linears, replace_float_linears
from sparsification.runtime.rewrite.layer_norm import fuse_layer_norms
from sparsification.runtime.rewrite.linear import DOMAIN, Linear, find_gelus, find_linears, replace_linear
from sparsification.runtime.rewrite.order import sort_outputs
from sparsification.runtime.rewrite.split import split_gated

SPARSE_FILE = "model.sparse.onnx"
# Largest share of non-zero weights for which the sparse product of an fp32 layer is used. On AMD Zen 5 it takes as long
# as the dense one a little above 70 %, whatever the layer (benchmarks/break_even.py).
FLOAT_BREAK_EVEN = 0.65


class SparseGraphError(SparsificationError, ValueError):
    """A file is no graph of the export with Linear layers, or none of them is sparse enough."""


@dataclass(frozen=True)
class ConversionReport:
    """Result of a rewrite."""

    path: Path
    quantized: bool  # whether the file computes in int8
    sparse: dict[str, float]  # share of non-zero weights of each layer that is sparse now, by the name of its weight
    dense: dict[str, float]  # and of each layer that was not changed
    fused: dict[str, int]  # number of nodes of each sparse operator
    size_bytes: int


def rewrite_sparse(source: str | Path, target: str | Path | None = None, always: bool = False) -> ConversionReport:
    """Write the sparse form of a file.

    Args:
        source: a ``model.onnx`` of ``export_onnx``, in fp32 or in int8 for ONNX Runtime.
        target: ``model.sparse.onnx`` beside it by default.
        always: make all layers sparse, not only those that are faster then on this CPU.

    Raises:
        BuildError: there is no compiler for the operators, or it failed.
        SparseGraphError: there is no Linear layer, or none is sparse enough; no file is written.
    """
    source = Path(source)
    target = source.with_name(SPARSE_FILE) if target is None else Path(target)
    model = onnx.load(source)
    graph = Graph(model)
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    int8, fp32 = find_linears(graph), find_float_linears(graph)
    linears: dict[str, Linear | FloatLinear] = {**int8, **fp32}
    if not linears:
        raise SparseGraphError(
            f"{source} has no Linear layer in fp32, nor in int8 with symmetric weights, which the sparse operators need"
        )
    sparse = set(linears) if always else _that_pay(int8, fp32)
    if not sparse:
        raise SparseGraphError(
            f"{source}: no Linear layer has so many zeros that the sparse product is faster (the sparsest has "
            f"{1 - min(x.density for x in linears.values()):.0%}): the dense file is the faster one"
        )
    gelus = find_gelus(graph)
    fuse_layer_norms(graph)
    sort_outputs(graph, {name: linear for name, linear in int8.items() if name in sparse}, gelus)
    done = fuse_attention(graph, int8, sparse) | fuse_float_attention(graph, fp32, sparse)
    rest = sparse - done
    for linear in split_gated(graph, {name: linear for name, linear in int8.items() if name in rest}, gelus):
        replace_linear(graph, linear, gelus)
    float_layers = split_gated(graph, {name: linear for name, linear in fp32.items() if name in rest}, gelus)
    replace_float_linears(graph, float_layers, gelus)
    graph.remove_unused()
    model.opset_import.append(onnx.helper.make_opsetid(DOMAIN, 1))
    with atomic_path(target) as partial:
        onnx.save(model, partial)
    ours = [node.op_type for node in model.graph.node if node.domain == DOMAIN]
    return ConversionReport(
        path=target,
        quantized=quantized,
        sparse={x.name: x.density for x in linears.values() if x.output in sparse},
        dense={x.name: x.density for x in linears.values() if x.output not in sparse},
        fused={op_type: ours.count(op_type) for op_type in sorted(set(ours))},
        size_bytes=target.stat().st_size,
    )


def _that_pay(int8: Mapping[str, Linear], fp32: Mapping[str, FloatLinear]) -> set[str]:
    """The layers whose sparse product is faster than the dense one."""
    pay = {name for name, linear in fp32.items() if linear.density <= FLOAT_BREAK_EVEN}
    if int8:  # a file in fp32 alone is rewritten without a compiler
        costs = layer_costs(linear.weight for linear in int8.values())
        pay |= {
            name for name, (_, cost) in zip(int8, costs, strict=True) if min(cost.blocks, cost.windows) < cost.dense
        }
    return pay
