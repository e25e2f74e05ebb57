"""The plan of a recipe: rows of sparsity and learning rate by epoch."""

import math

import pytest
import torch
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
)

from helpers.checking import DECAY, PRUNING, RUN, SAMPLED, SOUND, write
from sparsification.check.report import check
from sparsification.check.timeline import Timeline, text_lines
from sparsification.manager import ScheduledModifierManager
from sparsification.recipe.loader import load_recipe
from sparsification.recipe.summary import RecipeSummary


def cells(lines: list[str], label: str) -> list[str]:
    """The numbers of one row of the timeline."""
    line = next(line for line in lines if line.startswith(label))
    return line.removeprefix(label).split()


@pytest.mark.parametrize("curve", ["cubic", "linear", "inverse_cubic"])
def test_timeline_has_the_target_sparsity_of_the_schedule_at_every_tenth(curve):
    text = f"modifiers:\n{RUN}{PRUNING}    inter_func: {curve}\n".replace("init_sparsity: 0.0", "init_sparsity: 0.1")
    lines = text_lines(Timeline(RecipeSummary(load_recipe(text))))
    assert cells(lines, "epoch") == [str(epoch) for epoch in range(11)]

    def target(epoch: int) -> float:
        if epoch < 2:
            return 0.0
        x = min((epoch - 2) / 4, 1.0)
        way = {"cubic": 1 - (1 - x) ** 3, "linear": x, "inverse_cubic": 1 - (1 - x) ** (1 / 3)}[curve]
        return 10 + 70 * way

    numbers = [float(cell) for cell in cells(lines, "2 sparsity, %")]
    assert numbers == pytest.approx([target(epoch) for epoch in range(11)], abs=0.051)


def test_timeline_has_the_target_that_the_manager_prunes_to():
    text = f"modifiers:\n{RUN}{PRUNING}    update_frequency: 1.0\n"
    manager = ScheduledModifierManager(load_recipe(text))
    config = BertConfig(vocab_size=30, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    model = BertForQuestionAnswering(config)
    manager.initialize(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    timeline = Timeline(manager)
    numbers = [float(cell) for cell in cells(text_lines(timeline), "2 sparsity, %")]
    weight = model.bert.encoder.layer[0].attention.self.key.weight
    for epoch, number in enumerate(numbers):
        manager.update(timeline.training_step(epoch), optimizer)
        assert 100 * float((weight == 0).float().mean()) == pytest.approx(number, abs=0.07)


def test_timeline_has_the_learning_rate_at_every_tenth():
    cosine = (DECAY % 10.0).replace("linear", "cosine").replace("start_epoch: 0.0", "start_epoch: 2.0")
    lines = text_lines(Timeline(RecipeSummary(load_recipe(f"modifiers:\n{RUN}{cosine}"))))
    numbers = cells(lines, "rate, 1e-5")
    assert numbers[:2] == ["-", "-"]  # the command line's
    expected = [3 * (1 + math.cos(math.pi * (epoch - 2) / 8)) / 2 for epoch in range(2, 11)]
    assert [float(number) for number in numbers[2:]] == pytest.approx(expected, abs=0.0051)


def test_sparsity_that_the_weights_bring_along_is_unknown_without_them():
    text = f"modifiers:\n{RUN}{PRUNING}".replace("init_sparsity: 0.0", "init_sparsity: __FROM_PARAM__")
    lines = text_lines(Timeline(RecipeSummary(load_recipe(text))))
    assert cells(lines, "2 sparsity, %") == ["?"] * 6 + ["80.0"] * 5


def test_groups_with_their_own_sparsity_and_learning_rate_have_rows_of_their_own():
    groups = PRUNING.replace(r"['re:.*(query|key)\.weight']", "[a, b]").replace("0.8", "[0.5, 0.9]")
    rates = "  - !SetLearningRateModifier {learning_rate: %s, start_epoch: 0.0, param_groups: [%d]}\n"
    text = f"modifiers:\n{RUN}{groups}{rates % ('4.0e-4', 0)}{rates % ('1.0e-6', 1)}"
    lines = text_lines(Timeline(RecipeSummary(load_recipe(text))))
    finals = [cells(lines, f"4 sparsity to {final}, %")[-1] for final in (0.5, 0.9)]
    assert finals == ["50.0", "90.0"]
    assert cells(lines, "rate, group 0, 1e-4") == ["4.00"] * 11
    assert cells(lines, "rate, group 1, 1e-6") == ["1.00"] * 11


def test_bars_cover_their_windows():
    lines = text_lines(Timeline(RecipeSummary(load_recipe(f"modifiers:\n{SOUND}"))))
    columns = lines[0].index("0")
    pruning = next(line for line in lines if line.startswith("3 GMPruning"))
    assert pruning[columns:] == " " * 10 + "=" * 20
    quantization = next(line for line in lines if line.startswith("4 Quantization"))
    assert quantization[columns:] == " " * 35 + "=" * 15


def test_steps_are_those_of_the_run(tmp_path):
    report, _ = check(write(tmp_path, RUN + PRUNING + "    update_frequency: 0.5\n"), num_examples=1001, batch_size=10)
    assert "10 epochs; 101 steps per epoch, 1,010 in total" in report
    assert "(steps 202 to 606, 9 masks)" in report  # 202, 253, ..., 559, and the last one at 606


@pytest.mark.parametrize(
    ("modifier", "keys", "epochs"),
    [
        ("OBSPruning", "", 1024 / 4096),
        ("OBSPruning", "    num_recomputations: 3\n", 3 * 1024 / 4096),
        ("MFACPruning", "", 1024 / 4096),
    ],
)
def test_cost_of_a_masks_gradients_is_relative_to_an_epoch(modifier, keys, epochs):
    text = f"modifiers:\n{SAMPLED}{keys}".replace("OBSPruning", modifier)
    summary = RecipeSummary(load_recipe(text))
    (pruning,) = [modifier for modifier in summary.modifiers if modifier.final_sparsities]
    assert Timeline(summary, 256, 4096).sampled_epochs(pruning) == epochs
    assert Timeline(summary, 256).sampled_epochs(pruning) is None
    own_size = RecipeSummary(load_recipe(text.replace("    grad_sampler_kwargs: {batch_size: 4}\n", "")))
    (pruning,) = [modifier for modifier in own_size.modifiers if modifier.final_sparsities]
    assert Timeline(own_size, 512, 8192).sampled_epochs(pruning) == pytest.approx(2 * epochs)  # batches of 16
    assert Timeline(own_size).sampled_epochs(pruning) is None


def test_modifier_without_sampled_gradients_costs_none():
    summary = RecipeSummary(load_recipe(f"modifiers:\n{SOUND}"))
    assert all(Timeline(summary, 512, 8192).sampled_epochs(modifier) is None for modifier in summary.modifiers)
