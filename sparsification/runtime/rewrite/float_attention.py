"""Rewrite of attention in fp32 as one node, from the query, key and value to the input of the next layer."""

from collections.abc import Mapping, Set

from sparsification.runtime.graph import Graph, Match, Op
from sparsification.runtime.rewrite.attention import last_dimension
from sparsification.runtime.rewrite.float_linear import FloatLinear, add_float_linears
from sparsification.runtime.rewrite.linear import DOMAIN
from sparsification.runtime.rewrite.padding_mask import simplify_mask


def _heads(name: str, perm: tuple[int, ...] = (0, 2, 1, 3)) -> Op:
    """Query, key or value: a layer's output, split into heads."""
    return Op("Transpose", Op("Reshape", f"{name}_source", f"{name}_shape"), perm=list(perm))


_SCORES = Op("Mul|Div", Op("MatMul", _heads("query"), _heads("key", (0, 2, 3, 1))), "factor", name="scores")
_PROBABILITIES = Op("Softmax", Op("Add", _SCORES, "mask"), axis=-1)
_ATTENTION = Op("Reshape", Op("Transpose", Op("MatMul", _PROBABILITIES, _heads("value")), perm=[0, 2, 1, 3]))
_NAMES = ("query", "key", "value")


def fuse_float_attention(graph: Graph, linears: Mapping[str, FloatLinear], sparse: Set[str]) -> set[str]:
    """Replace each attention in fp32 by one node, and its query, key and value by another where they are sparse.

    Args:
        graph: changed in place.
        linears: result of ``find_float_linears``.
        sparse: outputs of the layers that are to become sparse.

    Returns:
        Outputs of the sparse layers that have been replaced as well.
    """
    done: set[str] = set()
    masks: dict[str, str] = {}
    for node in list(graph.model.graph.node):
        match = graph.match(node.output[0], _ATTENTION) if node.op_type == "Reshape" else None
        if match is not None:
            done |= _fuse(graph, match, linears, sparse, masks)
    return done


def _fuse(
    graph: Graph, match: Match, linears: Mapping[str, FloatLinear], sparse: Set[str], masks: dict[str, str]
) -> set[str]:
    layers = [linears.get(match[f"{name}_source"]) for name in _NAMES]
    sizes = {last_dimension(graph, match[f"{name}_shape"]) for name in _NAMES}
    factor = graph.scalar(match["factor"])
    query, key, value = layers
    if query is None or key is None or value is None or factor is None or factor == 0:
        return set()
    width, size = len(query.weight), sizes.pop()
    if sizes or size is None or width % size or {len(key.weight), len(value.weight)} != {width}:
        return set()
    if not graph.is_used_only_in(match):
        return set()
    mask = match["mask"]
    if mask not in masks:
        masks[mask] = simplify_mask(graph, mask)

    together = all(
        layer.output in sparse and layer.input == query.input and graph.is_used_only_in(match, layer.output)
        for layer in (query, key, value)
    )
    inputs = [query.output, key.output, value.output]
    if together:
        inputs = [f"{query.output}.key.value"] * 3
        add_float_linears(graph, [[query, key, value]], inputs[0])
    divides = graph.maker[match["scores"]].op_type == "Div"
    graph.add_node(
        "FloatAttention",
        [*inputs, masks[mask]],
        [match.nodes[0].output[0]],
        DOMAIN,
        heads=width // size,
        head_size=size,
        query_offset=0,
        key_offset=width if together else 0,
        value_offset=2 * width if together else 0,
        score_scale=1 / float(factor) if divides else float(factor),
    )
    return {query.output, key.output, value.output} if together else set()
