"""Files of whole models with zeros in the layers of the encoder."""

import onnx
import pytest
import torch
from transformers import AutoModelForQuestionAnswering

from sparsification.plan import model_files
from sparsification.plan.units import Option, find_units


def test_layers_of_the_encoder_are_found_in_the_file_and_zeroed(tiny_model_dir, tmp_path, tiny_tokenizer):
    model = AutoModelForQuestionAnswering.from_pretrained(tiny_model_dir).eval()
    rows = [{"input_ids": list(range(2, 20)), "attention_mask": [1] * 18}] * 4
    files = model_files.ModelFiles(model, tiny_tokenizer, rows, tmp_path)
    units = find_units(model, {name: torch.tensor([row]) for name, row in rows[0].items()})
    path = files.write(units, [Option("fp32")] * len(units))
    exported = onnx.load(path)
    layers = model_files.marked_layers(exported)
    assert len(layers) == 12
    model_files.zero(exported, layers, [Option("fp32", "unstructured", 0.9)] * 12)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in exported.graph.initializer}
    for layer in layers:
        before, after = torch.from_numpy(layer.weight.T.copy()), torch.from_numpy(weights[layer.name].copy())
        assert float((after == 0).float().mean()) == pytest.approx(0.9, abs=0.001)
        assert float(before[after == 0].abs().max()) <= float(after[after != 0].abs().min())
        assert torch.equal(before[after != 0], after[after != 0])
