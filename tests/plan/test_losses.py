"""Errors of layers are those of the layers themselves, and a file keeps them."""

import json

import pytest
import torch
from torch import nn

from helpers.exports import make_batch, make_bert
from sparsification.plan.losses import int8_error, measure_losses
from sparsification.plan.units import Option, find_units
from sparsification.pruning.layer_reconstruction import LayerReconstruction
from sparsification.pruning.reconstruction import Moments, sparsegpt


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = make_bert(layers=1).eval()
    batches = [make_batch(4, 24, seed=seed) for seed in range(3)]
    return model, find_units(model, batches[0]), batches


@pytest.mark.parametrize("bits", [7, 8])
def test_error_of_rounding_is_that_of_a_rounded_layer(bits):
    torch.manual_seed(0)
    layer, inputs = nn.Linear(64, 48, bias=False), torch.randn(4000, 64)
    weight = layer.weight.detach()
    moments = Moments(64, [48])
    moments.add(inputs, [inputs @ weight.T])
    scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    step = (inputs.max() - inputs.min()) / 255
    rounded = ((inputs / step).round() * step) @ ((weight / scale).round() * scale).T
    expected = (rounded - inputs @ weight.T).square().mean() / (inputs @ weight.T).square().mean()
    assert int8_error(moments.problem(0, weight, 0.01), bits) == pytest.approx(float(expected), rel=0.05)


def test_error_of_a_weight_is_that_of_its_outputs_on_the_tokens(case, tmp_path):
    model, units, batches = case
    losses = measure_losses(model, units, batches, tmp_path, lambda text: None)
    unit = units[2]  # the first layer of the feed-forward block
    module = model.get_submodule(unit.weights[0].removesuffix(".weight"))
    inputs = []
    handle = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    handle.remove()
    rows = torch.cat([x[batch["attention_mask"].bool()] for x, batch in zip(inputs, batches, strict=True)]).detach()
    weight = module.weight.detach()
    moments = Moments(weight.shape[1], [len(weight)])
    moments.add(rows, [rows @ weight.T])
    pruned = sparsegpt(moments.problem(0, weight, 0.01), 0.8, "unstructured")[0]
    expected = (rows @ (pruned - weight).T).square().sum() / (rows @ weight.T).square().sum()
    (path,) = tmp_path.iterdir()
    row = next(row for row in map(json.loads, path.read_text().splitlines()) if row["name"] == unit.weights[0])
    assert row["unstructured"]["0.8"] == pytest.approx(float(expected), rel=1e-3)
    assert 0 < row["int8"] < 0.01
    assert losses.of(unit, Option("fp32")) == 0
    int8 = losses.of(unit, Option("int8"))
    assert int8 == pytest.approx(row["int8"] * row["sensitivity"])
    both = losses.of(unit, Option("int8", "unstructured", 0.8))
    assert both == pytest.approx(losses.of(unit, Option("fp32", "unstructured", 0.8)) + int8)


def test_loss_of_a_probed_weight_is_the_change_of_the_models_outputs(case, tmp_path):
    model, units, batches = case
    losses = measure_losses(model, units, batches, tmp_path, lambda text: None)
    weight = model.get_parameter(units[3].weights[0])
    (problem,) = [
        problem for _, problem in LayerReconstruction(model, {units[3].weights[0]: weight}).problems(batches, 0.01)
    ]

    def outputs():
        with torch.no_grad():
            found = [(model(**batch), batch["attention_mask"].bool()) for batch in batches]
        return [torch.cat([output[key][mask] for output, mask in found]) for key in ("start_logits", "end_logits")]

    before = outputs()
    weight.data.copy_(sparsegpt(problem, 0.8, "unstructured")[0])
    changes = [
        float((new - old).square().sum() / (old - old.mean()).square().sum())
        for new, old in zip(outputs(), before, strict=True)
    ]
    assert losses.of(units[3], Option("fp32", "unstructured", 0.8)) == pytest.approx(sum(changes) / 2, rel=1e-3)


def test_model_is_as_before(case, tmp_path):
    model, units, batches = case
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_losses(model, units, batches, tmp_path, lambda text: None)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weights_of_a_unit_are_added_and_higher_sparsity_loses_more(case, tmp_path):
    model, units, batches = case
    losses = measure_losses(model, units, batches, tmp_path, lambda text: None)
    (path,) = tmp_path.iterdir()
    rows = {row["name"]: row for row in map(json.loads, path.read_text().splitlines())}
    assert set(rows) == {name for unit in units for name in unit.weights}
    expected = sum(
        (rows[name]["1x4"]["0.9"] + rows[name]["int8"]) * rows[name]["sensitivity"] for name in units[0].weights
    )
    assert losses.of(units[0], Option("int8", "1x4", 0.9)) == pytest.approx(expected)
    for row in rows.values():
        for pattern in ("unstructured", "1x4"):
            assert row[pattern]["0.5"] < row[pattern]["0.95"]


def test_interrupted_study_goes_on_after_the_last_complete_line(case, tmp_path):
    model, units, batches = case
    measure_losses(model, units, batches, tmp_path, lambda text: None)
    (path,) = tmp_path.iterdir()
    whole = path.read_text()
    path.write_text(whole[: whole.index("\n", whole.index("\n") + 1) + 20])  # two lines, and the start of a third
    said = []
    measure_losses(model, units, batches, tmp_path, said.append)
    assert path.read_text() == whole
    assert said[0].startswith("Losses: 56 problems of 4 of 6 weights; about 4 kB in ")
    said.clear()
    measure_losses(model, units, batches, tmp_path, said.append)
    assert not said
