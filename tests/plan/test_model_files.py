"""Files of whole models with zeros in the layers of the encoder."""

import onnx
import pytest
import torch
from transformers import AutoModelForQuestionAnswering

from helpers.plans import SHAPE, make_costs
from sparsification.plan import model_files
from sparsification.plan.units import BLOCKS, UNSTRUCTURED, Option, find_units


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


def test_models_to_time_have_sparsities_that_pay_in_each_shape():
    costs = make_costs()
    other = {option: cost for option, cost in costs.layers[SHAPE].items() if option.sparsity not in (0.7, 0.95)}
    assert model_files.models_to_time({SHAPE: costs.layers[SHAPE], (1, 1): other}) == [
        Option("fp32"),
        Option("fp32", UNSTRUCTURED, 0.8),
        Option("fp32", UNSTRUCTURED, 0.9),
        Option("int8"),
        Option("int8", BLOCKS, 0.8),
        Option("int8", BLOCKS, 0.9),
    ]
