"""Losses of shapes are what the outputs of the model change."""

import pytest
import torch

from helpers.exports import make_batch, make_bert
from sparsification.plan.shape.encoder import find_encoder
from sparsification.plan.shape.losses import measure_losses


@pytest.fixture
def case(tmp_path):
    torch.manual_seed(0)
    model = make_bert(layers=3).eval()
    batches = [make_batch(4, 24, seed=seed) for seed in range(3)]
    encoder, said = find_encoder(model), []
    return model, encoder, batches, lambda: measure_losses(model, encoder, batches, tmp_path, said.append), said


def test_fewer_neurons_lose_more(case):
    _, encoder, _, measure, _ = case
    for table in measure().neurons:
        assert list(table) == encoder.widths() and table[encoder.width] == 0
        assert list(table.values()) == sorted(table.values(), reverse=True)


def test_model_is_as_before_and_results_are_kept(case):
    model, _, _, measure, said = case
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = measure()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    said.clear()
    assert measure() == losses and not said
