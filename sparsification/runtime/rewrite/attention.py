"""Rewrite of quantized attention as one node, from the query, key and value to the next layer's integers."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from sparsification.runtime.graph import Graph, Match, Op
from sparsification.runtime.rewrite.linear import DOMAIN, Linear, add_linear
from sparsification.runtime.rewrite.padding_mask import simplify_mask
from sparsification.runtime.rewrite.quant_params import QuantParams, quant_params, unsigned_params


def _heads(name: str) -> Op:
    """Query, key or value: a layer's output, split into heads, quantized and dequantized."""
    heads = Op("Transpose", Op("Reshape", f"{name}_source", f"{name}_shape"), perm=[0, 2, 1, 3])
    return Op("DequantizeLinear", Op("QuantizeLinear", heads, name=f"{name}_integers"), name=f"{name}_values")


_SCORES = Op("MatMul", _heads("query"), Op("Transpose", _heads("key"), perm=[0, 1, 3, 2]))
_PROBABILITIES = Op("QuantizeLinear", Op("Softmax", Op("Add", _SCORES, "mask")), name="probability_integers")
_CONTEXT = Op("MatMul", Op("DequantizeLinear", _PROBABILITIES, name="probability_values"), _heads("value"))
_ATTENTION = Op("QuantizeLinear", Op("Reshape", Op("Transpose", _CONTEXT, perm=[0, 2, 1, 3])))


@dataclass(frozen=True)
class _Factor:
    """Query, key or value."""

    layer: Linear  # whose output it is
    head_size: int
    params: QuantParams  # of its quantization
    scale: np.float32  # of its dequantization


def fuse_attention(graph: Graph, linears: dict[str, Linear], sparse: Set[str]) -> set[str]:
    """Replace each quantized attention by one node.

    Args:
        graph: changed in place.
        linears: result of ``find_linears``.
        sparse: outputs of the layers that are to become sparse.

    Returns:
        Outputs of the sparse layers that have been replaced as well.
    """
    done: set[str] = set()
    masks: dict[str, str] = {}
    for node in list(graph.model.graph.node):
        match = graph.match(node.output[0], _ATTENTION) if node.op_type == "QuantizeLinear" else None
        if match is not None:
            done |= _fuse(graph, match, linears, sparse, masks)
    return done


def _fuse(graph: Graph, match: Match, linears: dict[str, Linear], sparse: Set[str], masks: dict[str, str]) -> set[str]:
    query, key, value = (_factor(graph, match, name, linears) for name in ("query", "key", "value"))
    probability = unsigned_params(graph, graph.maker[match["probability_integers"]])
    output = unsigned_params(graph, match.nodes[0])
    if query is None or key is None or value is None or probability is None or output is None:
        return set()
    if probability != quant_params(graph, graph.maker[match["probability_values"]]):
        return set()
    if query.params.signed or not (key.params.signed and value.params.signed):
        return set()
    factors = (query, key, value)
    layers = [factor.layer for factor in factors]
    widths, sizes = {len(layer.weight) for layer in layers}, {factor.head_size for factor in factors}
    if len(widths) != 1 or len(sizes) != 1 or (width := widths.pop()) % (size := sizes.pop()):
        return set()
    if not graph.is_used_only_in(match, *(layer.output for layer in layers)):
        return set()

    mask = match["mask"]
    if mask not in masks:
        masks[mask] = simplify_mask(graph, mask)
    inputs = _add_integers(graph, factors, sparse)
    together = inputs[0] == inputs[1]
    graph.add_node(
        "QuantizedAttention",
        [*inputs, masks[mask]],
        [match.nodes[0].output[0]],
        DOMAIN,
        heads=width // size,
        head_size=size,
        query_offset=0,
        key_offset=width if together else 0,
        value_offset=2 * width if together else 0,
        query_zero_point=query.params.zero_point,
        key_zero_point=key.params.zero_point,
        value_zero_point=value.params.zero_point,
        score_scale=float(query.scale * key.scale),
        probability_scale=float(probability.scale),
        probability_zero_point=probability.zero_point,
        context_scale=float(probability.scale * value.scale),
        output_scale=float(output.scale),
        output_zero_point=output.zero_point,
    )
    return {layer.output for layer in layers} & sparse


def _factor(graph: Graph, match: Match, name: str, linears: dict[str, Linear]) -> _Factor | None:
    layer = linears.get(match[f"{name}_source"])
    params = quant_params(graph, graph.maker[match[f"{name}_integers"]])
    back = quant_params(graph, graph.maker[match[f"{name}_values"]])
    size = last_dimension(graph, match[f"{name}_shape"])
    if layer is None or params is None or back is None or size is None:
        return None
    if (params.zero_point, params.signed) != (back.zero_point, back.signed):
        return None
    return _Factor(layer, size, params, back.scale)


def last_dimension(graph: Graph, shape: str) -> int | None:
    """The last number of a shape, which is a constant or a Concat of numbers with a constant at the end."""
    array = graph.constant(shape)
    if array is None:
        concat = graph.producer(shape, "Concat")
        array = graph.constant(concat.input[-1]) if concat is not None else None
    return int(array.ravel()[-1]) if array is not None and array.size and array.ravel()[-1] > 0 else None


def _add_integers(graph: Graph, factors: Sequence[_Factor], sparse: Set[str]) -> list[str]:
    """Add the nodes that compute the quantized query, key and value, not split into heads.

    Returns:
        Their names: three times the same one if one sparse layer computes all three, side by side.
    """
    layers = [factor.layer for factor in factors]
    same_input = len({(layer.input, layer.params) for layer in layers}) == 1
    if same_input and all(layer.output in sparse for layer in layers):
        output = f"{layers[0].output}.key.value"
        add_linear(graph, layers, output, [factor.params for factor in factors])
        return [output] * 3
    names = []
    for factor in factors:
        name = f"{factor.layer.output}.integers"
        if factor.layer.output in sparse:
            add_linear(graph, [factor.layer], name, [factor.params])
        else:
            dtype = np.int8 if factor.params.signed else np.uint8
            scale = graph.add_constant(f"{name}.scale", np.array(factor.params.scale, np.float32))
            zero_point = graph.add_constant(f"{name}.zero_point", np.array(factor.params.zero_point, dtype))
            graph.add_node("QuantizeLinear", [factor.layer.output, scale, zero_point], [name])
        names.append(name)
    return names
