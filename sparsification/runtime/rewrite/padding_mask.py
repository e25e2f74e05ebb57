"""Replacement of the computation of an attention mask that hides padding only."""

import numpy as np
import onnx
import onnxruntime

from sparsification.runtime.graph import Graph

_LOWEST = np.finfo(np.float32).min


def simplify_mask(graph: Graph, mask: str) -> str:
    """Compute the mask that is added to the scores in three nodes, if it only hides padding.

    Transformers computes it in forty nodes, [batch, 1, length, length], for masks of all kinds. Which kind it is shows
    when they run on a few random inputs.

    Args:
        graph: changed in place.
        mask: name of the mask.

    Returns:
        The name of the new mask, [batch, 1, 1, length]; ``mask`` itself if it is of another kind.
    """
    if "attention_mask" not in graph.inputs or not _hides_padding_only(graph, mask):
        return mask
    visible, added, name = (f"attention_mask.{part}" for part in ("visible", "added", "mask"))
    graph.add_node("Cast", ["attention_mask"], [visible], to=onnx.TensorProto.BOOL)
    zero = graph.add_constant("attention_mask.zero", np.array(0, np.float32))
    lowest = graph.add_constant("attention_mask.least", np.array(_LOWEST))
    graph.add_node("Where", [visible, zero, lowest], [added])
    axes = graph.add_constant("attention_mask.axes", np.array([1, 2], np.int64))
    graph.add_node("Unsqueeze", [added, axes], [name])
    return name


def _hides_padding_only(graph: Graph, mask: str) -> bool:
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
        expected = np.where(visible[:, None, None, :] != 0, np.float32(0), _LOWEST)
        if actual.dtype != np.float32 or actual.ndim != 4 or actual.shape[-1] != length:
            return False
        if not np.array_equal(np.broadcast_to(actual, (batch, 1, length, length)), expected.repeat(length, axis=2)):
            return False
    return True
