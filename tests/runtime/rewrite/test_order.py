"""Outputs are sorted where one layer alone reads them."""

import numpy as np
import onnx
import pytest
import torch

from helpers.exports import OUTPUTS, export_model, make_batch, make_bert, needs_compiler, quantize_model
from sparsification import runtime
from sparsification.runtime.graph import attribute
from sparsification.runtime.rewrite import rewrite_sparse


def _prune(model: torch.nn.Module, width: int) -> torch.nn.Module:
    """Rows of very different density, as real weights have them."""
    generator = torch.Generator().manual_seed(0)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "encoder" in name:
            outputs, inputs = module.weight.shape
            kept = torch.linspace(0.02, 0.3, outputs)[torch.randperm(outputs, generator=generator)]
            mask = torch.rand(outputs, inputs // width, generator=generator) < kept[:, None]
            module.weight.data *= mask.repeat_interleave(width, 1)
    return model


@needs_compiler
@pytest.mark.parametrize("width", [1, 4])
def test_first_layer_of_the_feed_forward_block_is_sorted(width, tmp_path):
    export_model(quantize_model(_prune(make_bert(), width)), tmp_path)
    rewrite_sparse(tmp_path / "model.onnx", always=True)
    model = onnx.load(tmp_path / "model.sparse.onnx")
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    first = [node for node in model.graph.node if attribute(node, "gelu")]
    assert len(first) == 2
    for node in first:
        counts = arrays[node.input[1]]
        is_sorted = bool((np.diff(counts.astype(int)) <= 0).all())
        # Blocks of the layer that reads it would not be blocks any more.
        assert is_sorted == node.output[0].endswith(".sorted") == (width == 1)
    batch = {name: tensor.numpy() for name, tensor in make_batch(2, 20).items()}
    results = [
        runtime.load_session(tmp_path / name).run(OUTPUTS, batch) for name in ("model.onnx", "model.sparse.onnx")
    ]
    for dense, sparse in zip(*results, strict=True):
        assert np.abs(dense - sparse).mean() < 0.02 * dense.std()
