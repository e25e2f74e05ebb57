"""What a weight changes in the outputs of a model, without padding."""

import pytest
import torch
from torch import nn
from transformers import BertModel

from helpers.exports import make_batch, make_bert
from sparsification.pruning.sensitivity import PROBED_BATCHES, Probe


class Scale(nn.Module):
    """Multiplies its inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, values, attention_mask=None):
        return {"values": values * self.factor, "loss": values.sum()}


@pytest.fixture
def values():
    return torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))


def test_change_is_squared_and_in_units_of_the_variance(values):
    model = Scale()
    rows = 2 * values.reshape(-1, 5)
    variance = (rows - rows.mean(0)).square().sum()
    change = Probe(model, [{"values": values}]).change(model.factor, torch.tensor(3.0))
    assert change == pytest.approx(float(values.square().sum() / variance))
    assert model.factor == 2.0


def test_padding_does_not_count(values):
    mask = torch.tensor([[1, 1, 0]] * 4)
    padded = values.clone()
    padded[:, 2] = 1e6
    model = Scale()
    changes = [
        Probe(model, [{"values": one, "attention_mask": mask}]).change(model.factor, torch.tensor(0.0))
        for one in (values, padded)
    ]
    assert changes[0] == pytest.approx(changes[1])


def test_some_batches_of_many_are_used(values):
    seen = []

    class Counting(Scale):
        def forward(self, values, attention_mask=None):
            seen.append(float(values.mean()))
            return super().forward(values, attention_mask)

    model = Counting()
    Probe(model, [{"values": values + number} for number in range(20)]).change(model.factor, torch.tensor(1.0))
    assert len(seen) == 2 * PROBED_BATCHES
    assert seen[:PROBED_BATCHES] == seen[PROBED_BATCHES:] and max(seen) - min(seen) > 12


def test_pooler_of_a_bare_encoder_changes_nothing():
    model = BertModel(make_bert(layers=1).config).eval()
    batch = make_batch(2, 6)
    weight = model.pooler.dense.weight
    assert Probe(model, [batch]).change(weight, torch.zeros_like(weight)) == 0.0
    weight = model.encoder.layer[0].output.dense.weight
    assert Probe(model, [batch]).change(weight, torch.zeros_like(weight)) > 0.0


def test_change_is_the_mean_over_the_outputs():
    model, batch = make_bert(layers=1).eval(), make_batch(4, 8)
    weight = model.qa_outputs.weight
    without_start = weight.detach() * torch.tensor([[0.0], [1.0]])
    start = model(**batch).start_logits[batch["attention_mask"].bool()].detach()
    expected = (start - model.qa_outputs.bias[0]).square().sum() / (start - start.mean()).square().sum() / 2
    assert Probe(model, [batch]).change(weight, without_start) == pytest.approx(float(expected.detach()), rel=1e-4)
