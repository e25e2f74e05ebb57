"""Layers go in the order in which the outputs change least, and their losses are those of the shorter models."""

import pytest
import torch

from helpers.exports import make_batch, make_bert
from sparsification.plan import drops
from sparsification.pruning.sensitivity import Probe


@pytest.fixture
def case(tmp_path):
    torch.manual_seed(0)
    model, said = make_bert(layers=4).eval(), []
    batches = [make_batch(4, 24, seed=seed) for seed in range(3)]
    names = drops.layer_names(model)
    return model, batches, lambda: drops.measure_drops(model, names, batches, tmp_path, said.append), said


def test_layer_whose_absence_changes_the_outputs_least_goes_next(case):
    model, batches, measure, _ = case
    probe, layers, gone, expected = Probe(model, batches), model.bert.encoder.layer, [], {(): 0.0}
    for _ in range(2):
        changes = {}
        for index in set(range(4)) - set(gone):
            kept = [layer for i, layer in enumerate(layers) if i not in (*gone, index)]
            model.bert.encoder.layer = torch.nn.ModuleList(kept)
            changes[index] = probe.change_of(model)
        gone.append(min(changes, key=changes.__getitem__))
        expected[tuple(sorted(gone))] = pytest.approx(changes[gone[-1]])
    model.bert.encoder.layer = layers
    assert measure() == expected
    assert len(model.bert.encoder.layer) == model.config.num_hidden_layers == 4


def test_results_are_kept(case):
    _, _, measure, said = case
    found = measure()
    assert len(said) == 3
    said.clear()
    assert measure() == found and not said


def test_model_whose_class_cannot_load_fewer_layers_keeps_them(case, monkeypatch):
    _, _, measure, _ = case

    def refuse(*_):
        raise drops.ManagerError("")

    monkeypatch.setattr(drops.ScheduledModifierManager, "initialize", refuse)
    assert measure() == drops.NONE


def test_layers_of_a_class_that_cannot_load_fewer_are_not_dropped(monkeypatch):
    def refuse(*_):
        raise drops.ManagerError("")

    monkeypatch.setattr(drops.ScheduledModifierManager, "initialize", refuse)
    assert drops.layer_names(make_bert(layers=4)) == []


def test_half_of_the_layers_is_timed():
    assert [drops.every_other(names) for names in ([], ["a"], list("abcd"))] == [(), (), (1, 3)]


def test_layers_of_several_lists_are_not_dropped():
    model = torch.nn.ModuleDict(
        {name: torch.nn.ModuleList([torch.nn.Sequential(torch.nn.Linear(2, 2))]) for name in ("one", "other")}
    )
    assert drops.layer_names(model) == []
