"""Rows, columns and heads against numpy's norms, and what can be taken out of a model afterwards."""

import copy

import numpy as np
import pytest
import torch

from helpers.recipes import PRUNE_ROWS
from helpers.trainers import make_model
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.recipe.loader import RecipeError

ONCE = """
modifiers:
  - !StructuredPruningModifier
    params: ['re:.*weight']
    init_sparsity: 0.0
    final_sparsity: 0.5
    start_epoch: 0.0
    end_epoch: 4.0
    update_frequency: 1.0
    inter_func: linear
    mask_type: {mask_type}
    param_groups: {groups}
"""


def three_layers() -> torch.nn.ModuleDict:
    torch.manual_seed(0)
    return torch.nn.ModuleDict({name: torch.nn.Linear(12, 8) for name in ("one", "two", "three")})


def expected_units(weights: list[torch.Tensor], axis: int, share: float) -> np.ndarray:
    """Which units stay: those with the largest sum of norms."""
    norms = sum(np.linalg.norm(weight.detach().numpy(), axis=1 - axis) for weight in weights)
    keep = np.ones(norms.size, bool)
    keep[np.argsort(norms)[: round(norms.size * share)]] = False
    return keep


@pytest.mark.parametrize(("mask_type", "axis"), [("filter", 0), ("channel", 1)])
def test_units_with_the_smallest_norms_go_together_and_stay_away(mask_type, axis):
    module = three_layers()
    manager = ScheduledModifierManager.from_yaml(
        ONCE.format(mask_type=mask_type, groups="[[one.weight, three.weight]]")
    )
    manager.initialize(module)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05)
    for step in range(12):
        for parameter in module.parameters():
            parameter.grad = torch.randn_like(parameter)
        manager.after_backward()
        if step in (2, 4, 6, 8):
            share = step / 2 / 4 * 0.5
            units = {
                "one": expected_units([module["one"].weight, module["three"].weight], axis, share),
                "two": expected_units([module["two"].weight], axis, share),
            }
            units["three"] = units["one"]
        manager.update(TrainingStep(step, 2), optimizer)
        optimizer.step()
        manager.after_optimizer_step()
        if step >= 2:
            for name, layer in module.items():
                kept = (layer.weight != 0).all(dim=1 - axis).numpy()
                np.testing.assert_array_equal(kept, units[name])
                assert ((layer.weight == 0).all(dim=1 - axis).numpy() == ~kept).all()
                assert ((layer.bias != 0).numpy() == (kept if axis == 0 else True)).all()
    assert not np.array_equal(units["one"], units["two"])


def test_heads_of_an_attention_go_as_a_whole():
    torch.manual_seed(0)
    model = make_model(hidden=32)
    model.config.num_attention_heads = 8  # 8 heads of 4
    recipe = PRUNE_ROWS.replace(r"\d\.intermediate\.dense", "(query|key|value)").replace("0.8", "0.375")
    manager = ScheduledModifierManager.from_yaml(recipe + "    mask_type: head\n")
    manager.initialize(model)
    before = copy.deepcopy(model)
    manager.apply_one_shot()
    for old, new in zip(before.bert.encoder.layer, model.bert.encoder.layer, strict=True):
        parts = [(getattr(old.attention.self, n), getattr(new.attention.self, n)) for n in ("query", "key", "value")]
        norms = sum(np.linalg.norm(linear.weight.detach().numpy().reshape(8, -1), axis=1) for linear, _ in parts)
        gone = set(np.argsort(norms)[:3])
        for linear, pruned in parts:
            for head in range(8):
                rows = slice(4 * head, 4 * head + 4)
                expected = torch.zeros(4, 32) if head in gone else linear.weight[rows]
                assert torch.equal(pruned.weight[rows], expected)
                assert torch.equal(pruned.bias[rows], torch.zeros(4) if head in gone else linear.bias[rows])


def test_groups_may_be_patterns_and_layers_may_be_gone():
    groups = "[['re:.*layer.1.attention.self.(query|key).weight'], ['re:.*layer.2.attention.self.(query|key).weight']]"
    recipe = PRUNE_ROWS.replace(r"\d\.intermediate\.dense", "(query|key|value)") + f"    param_groups: {groups}\n"
    drop = "  - !LayerPruningModifier\n    layers: [bert.encoder.layer.1]\n"
    model = make_model()
    manager = ScheduledModifierManager.from_yaml(recipe + drop)
    manager.initialize(model)
    manager.apply_one_shot()
    first, second = model.bert.encoder.layer[0].attention.self, model.bert.encoder.layer[1].attention.self
    zeros = [[(linear.weight == 0).all(dim=1) for linear in (a.query, a.key)] for a in (first, second)]
    assert all(int(rows.sum()) == 13 for pair in zeros for rows in pair)
    assert torch.equal(*zeros[1]) and not torch.equal(*zeros[0])


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (
            "[[one.weight, two.weight], [two.weight, three.weight]]",
            "a weight once, got two.weight twice",
        ),
        ("[[one.weight, two.bias]]", "param_groups must name matrices of params, got two.bias"),
        ("[[one.weight, four.weight]]", "no parameter matches 'four.weight'"),
    ],
)
def test_wrong_groups_are_refused(groups, message):
    with pytest.raises(ManagerError, match=message):
        ScheduledModifierManager.from_yaml(ONCE.format(mask_type="filter", groups=groups)).initialize(three_layers())


@pytest.mark.parametrize(
    ("module", "mask_type", "groups", "message"),
    [
        (torch.nn.Conv2d(3, 8, 3), "filter", "null", r"needs a matrix, got a weight of shape \(8, 3, 3, 3\)"),
        (torch.nn.LayerNorm(8), "filter", "null", "needs a matrix, got the vector"),
        (torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 4)), "filter", "[['re:.*weight']]",
         r"0.weight \(8 filters, 0.5\) and 1.weight \(4, 0.5\)"),
    ],
)  # fmt: skip
def test_what_is_no_row_or_column_is_refused(module, mask_type, groups, message):
    with pytest.raises(ManagerError, match=message):
        ScheduledModifierManager.from_yaml(ONCE.format(mask_type=mask_type, groups=groups)).initialize(module)


def test_rows_that_are_no_heads_are_refused():
    recipe = PRUNE_ROWS.replace(r".*\d\.intermediate\.dense\.weight", "qa_outputs.weight") + "    mask_type: head\n"
    with pytest.raises(ManagerError, match="qa_outputs.weight: heads of 8 do not tile 2 rows"):
        ScheduledModifierManager.from_yaml(recipe).initialize(make_model())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mask_type: unstructured", "mask_type must be 'filter' or 'channel' or 'head'"),
        ("global_sparsity: True", "has no key 'global_sparsity'"),
    ],
)
def test_what_a_recipe_gets_wrong_is_said(line, message):
    with pytest.raises(RecipeError, match=message):
        ScheduledModifierManager.from_yaml(PRUNE_ROWS + f"    {line}\n")


# Taking out what is zero
