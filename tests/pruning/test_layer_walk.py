"""The walk over a model's linear layers, against forward passes of the whole models with hooks on every layer."""

import copy

import pytest
import torch
import transformers
from torch import nn

from helpers.tiny_encoders import FAMILIES
from sparsification.pruning.layer_walk import walk

NO_LINEAR_LAYERS = {"XLNet"}  # its matrices are parameters of the attention module itself
SIZE = 40  # tokens of the vocabulary


def model_of(family: str) -> nn.Module:
    prefix, _, config = FAMILIES[family]
    torch.manual_seed(0)
    made = getattr(transformers, f"{prefix}Config")(vocab_size=SIZE, **config)
    return getattr(transformers, f"{prefix}ForQuestionAnswering")(made).eval()


def make_batches() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    batches = []
    for rows, length in ((2, 12), (3, 9)):
        ids = torch.randint(5, SIZE, (rows, length), generator=generator)
        ids[:, 1:4] = 2  # three separators, as Longformer wants them
        mask = torch.ones_like(ids)
        mask[0, length - 4 :] = 0
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


def linear_names(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def record(model: nn.Module, name: str, batches) -> tuple[torch.Tensor, torch.Tensor]:
    """All inputs and outputs of a layer in whole forward passes, without padding, its bias taken away."""
    module, inputs, outputs = model.get_submodule(name), [], []

    def hook(_, args, output):
        states = args[0]
        if "attention_mask" in batch and states.shape[:-1] == batch["attention_mask"].shape:
            keep = batch["attention_mask"].bool()
            states, output = states[keep], output[keep]
        inputs.append(states.flatten(end_dim=-2))
        outputs.append(output.flatten(end_dim=-2) - (0 if module.bias is None else module.bias))

    handle = module.register_forward_hook(hook)
    with torch.no_grad():
        for batch in batches:
            model(**batch)
    handle.remove()
    return torch.cat(inputs).double(), torch.cat(outputs).double()


def assert_moments(moments, index, inputs, outputs):
    weight = torch.zeros(outputs.shape[1], inputs.shape[1])
    stated = moments.problem(index, weight, 1e-9)
    assert moments.tokens == len(inputs)
    torch.testing.assert_close(stated.hessian, inputs.T @ inputs / len(inputs), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(stated.cross, outputs.T @ inputs / len(inputs), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in NO_LINEAR_LAYERS])
def test_each_group_sees_the_model_as_pruned_so_far_and_the_dense_outputs(family):
    model, batches = model_of(family), make_batches()
    dense = copy.deepcopy(model)
    names, seen = linear_names(model), []
    for group in walk(model, names, batches):
        for index, name in enumerate(group.names):
            inputs, _ = record(model, name, batches)
            _, outputs = record(dense, name, batches)
            assert_moments(group.moments, index, inputs, outputs)
        for name in group.names:
            with torch.no_grad():
                model.get_submodule(name).weight[:, ::2] = 0.0
        seen += group.names
    called = []
    handles = [
        dense.get_submodule(name).register_forward_hook(lambda *_, name=name: called.append(name)) for name in names
    ]
    for batch in batches:
        dense(**batch)
    for handle in handles:
        handle.remove()
    assert seen == list(dict.fromkeys(called))


def test_query_key_and_value_are_one_group():
    model = model_of("BERT")
    groups = [group.names for group in walk(model, linear_names(model), make_batches())]
    assert groups[0] == [f"bert.encoder.layer.0.attention.self.{name}" for name in ("query", "key", "value")]
    assert [len(names) for names in groups] == [3, 1, 1, 1, 3, 1, 1, 1, 1]


def test_a_teacher_gives_the_outputs():
    model, batches = model_of("BERT"), make_batches()
    teacher = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.5).add_(0.01)
    name = "bert.encoder.layer.1.output.dense"
    [group] = walk(model, [name], batches, dense=teacher)
    inputs, _ = record(model, name, batches)
    _, outputs = record(teacher, name, batches)
    # What is left to the weights: the bias stays the pruned layer's own.
    biases = [either.get_submodule(name).bias.detach().double() for either in (teacher, model)]
    assert_moments(group.moments, 0, inputs, outputs + biases[0] - biases[1])


@pytest.mark.parametrize("family", ["BERT", "ModernBERT", "ALBERT"])
def test_walk_leaves_model_as_it_was(family):
    model, batches = model_of(family), make_batches()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expected = model(**batches[0]).start_logits
    for _ in walk(model, linear_names(model), batches):
        pass
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(**batches[0]).start_logits, expected)
    assert not any("forward" in vars(module) or module._forward_hooks for module in model.modules())


class UsesEveryLayer(nn.Module):
    """A model of two layers whose outputs it adds up."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.layer[0](x).relu()
        return self.head(first + self.layer[1](first).relu())


def test_model_that_uses_the_output_of_every_layer_is_run_whole():
    model = UsesEveryLayer().eval()
    dense = copy.deepcopy(model)
    batches = [{"x": torch.randn(3, 5, 6, generator=torch.Generator().manual_seed(0))}]
    names = []
    for group in walk(model, ["layer.0", "layer.1", "head"], batches):
        inputs, _ = record(model, group.names[0], batches)
        _, outputs = record(dense, group.names[0], batches)
        assert_moments(group.moments, 0, inputs, outputs)
        with torch.no_grad():
            model.get_submodule(group.names[0]).weight[:, ::2] = 0.0
        names += group.names
    assert names == ["layer.0", "layer.1", "head"]


def test_finished_layers_are_not_run_again():
    model, batches = model_of("BERT"), make_batches()
    runs = []
    model.bert.encoder.layer[0].attention.register_forward_hook(lambda *_: runs.append(0))
    names = [name for name in linear_names(model) if ".layer.1." in name]
    assert len(list(walk(model, names, batches))) == 4
    # One batch to find the order (the second run of it has all layers' outputs), and each batch once for the dense and
    # once for the pruned model.
    assert len(runs) == 1 + 2 * len(batches)


def test_nothing_is_run_behind_the_last_group():
    model, batches = model_of("BERT"), make_batches()
    runs = []
    model.bert.encoder.layer[1].output.LayerNorm.register_forward_hook(lambda *_: runs.append(0))
    names = [name for name in linear_names(model) if ".layer." in name]
    assert len(list(walk(model, names, batches))) == 8
    assert len(runs) == 1  # to find the order
