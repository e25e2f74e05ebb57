"""Recipes in a loop without Trainer: same weights as Trainer, torch's own schedulers, and clear refusals."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForQuestionAnswering, TrainingArguments

from helpers.recipes import DISTILL, DROP, LINEAR, POWER, QUANTIZE
from sparsification import ScheduledModifierManager, SparseTrainer
from sparsification.errors import ManagerError
from sparsification.plain_loop import PlainLoop, modify

STEPS_PER_EPOCH = 4
PRUNE = """
modifiers:
  - !GMPruningModifier {params: [weight], final_sparsity: 0.75, start_epoch: 0.0, end_epoch: 2.0}
"""
DISTILL_LAYERS_ALONE = """
modifiers:
  - !PerLayerDistillationModifier {student_layer_names: [bert.encoder.layer.0]}
"""
LEARNING_RATE = """
modifiers:
  - !LearningRateFunctionModifier
    {lr_func: linear, init_lr: 0.5, final_lr: 0.0, start_epoch: 1.0, end_epoch: 2.0}
"""


def tiny_bert() -> BertForQuestionAnswering:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return BertForQuestionAnswering(config)


def rows() -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "input_ids": torch.randint(1, 32, (8,), generator=generator),
            "start_positions": torch.tensor(number % 8),
            "end_positions": torch.tensor(7),
        }
        for number in range(8)
    ]


def batches() -> list[dict[str, torch.Tensor]]:
    examples = rows()
    pairs = [examples[start : start + 2] for start in range(0, 8, 2)]
    return [{name: torch.stack([row[name] for row in pair]) for name in pair[0]} for pair in pairs]


class _InOrder(SparseTrainer):
    def _get_train_sampler(self, *args, **kwargs):
        return torch.utils.data.SequentialSampler(self.train_dataset)


def test_a_plain_loop_ends_with_the_weights_of_trainer(tmp_path):
    recipe = f"""
pruning_modifiers:
  - !GMPruningModifier {{params: ['{LINEAR}'], final_sparsity: 0.8, start_epoch: 0.0, end_epoch: 2.0}}
lr_modifiers:
  - !LearningRateFunctionModifier
    {{lr_func: linear, init_lr: 0.1, final_lr: 0.0, start_epoch: 0.0, end_epoch: 3.0}}
{DISTILL}"""
    teacher = tiny_bert()
    nn.init.normal_(teacher.qa_outputs.weight)
    model, other = tiny_bert(), tiny_bert()
    args = TrainingArguments(
        tmp_path,
        num_train_epochs=3,
        per_device_train_batch_size=2,
        weight_decay=0.01,
        max_grad_norm=0.0,
        optim="sgd",  # AdamW makes steps of the rounding in gradients that are zero, such as those of the keys' biases
        learning_rate=0.01,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
    )
    trainer = _InOrder(
        manager=ScheduledModifierManager.from_yaml(recipe),
        teacher=copy.deepcopy(teacher),
        model=model,
        args=args,
        train_dataset=rows(),
    )
    trainer.train()

    decayed = [p for name, p in other.named_parameters() if not (name.endswith("bias") or "LayerNorm" in name)]
    others = [p for name, p in other.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=0.01
    )
    loop = PlainLoop(
        ScheduledModifierManager.from_yaml(recipe), other.train(), optimizer, STEPS_PER_EPOCH, teacher=teacher
    )
    for batch in batches() * 3:
        optimizer.zero_grad()
        outputs = other(**batch)
        inputs = {name: value for name, value in batch.items() if "positions" not in name}
        loop.update_loss(outputs.loss, outputs, inputs).backward()
        optimizer.step()
    loop.finalize()
    expected, found = model.state_dict(), other.state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-5, atol=1e-6, msg=name)
    dense = found["bert.encoder.layer.1.output.dense.weight"]
    assert float((dense == 0).float().mean()) == pytest.approx(0.8, abs=1 / dense.numel())


def test_pruned_weights_stay_zero_at_every_step_after_the_last_mask():
    model = nn.Linear(8, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    manager = ScheduledModifierManager.from_yaml(PRUNE)
    assert manager.modify(model, optimizer, steps_per_epoch=STEPS_PER_EPOCH) is optimizer
    zeros = []
    for _ in range(3 * STEPS_PER_EPOCH):
        optimizer.zero_grad()
        model(torch.randn(4, 8)).square().mean().backward()
        optimizer.step()
        zeros.append(int((model.weight == 0).sum()))
    manager.finalize()
    assert zeros == sorted(zeros)
    assert zeros[2 * STEPS_PER_EPOCH :] == [48] * STEPS_PER_EPOCH


def test_a_learning_rate_of_the_recipe_follows_its_closed_form_and_the_users_own_holds_before_it():
    model = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.125)
    modify(ScheduledModifierManager.from_yaml(LEARNING_RATE), model, optimizer, STEPS_PER_EPOCH)
    rates = []
    for _ in range(2 * STEPS_PER_EPOCH):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.125] * 4 + [0.5, 0.375, 0.25, 0.125])


def test_a_recipe_without_learning_rate_leaves_it_to_a_scheduler_of_torch():
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    modify(ScheduledModifierManager.from_yaml(PRUNE), model, optimizer, STEPS_PER_EPOCH)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    for _ in range(3):
        model(torch.ones(1, 8)).sum().backward()
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.125


def test_a_step_that_a_gradient_scaler_skips_is_none_of_the_schedule():
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loop = PlainLoop(ScheduledModifierManager.from_yaml(PRUNE), model, optimizer, STEPS_PER_EPOCH)
    scaler = torch.amp.GradScaler("cpu")
    steps = []
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale(model(torch.ones(1, 8)).sum() * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        steps.append(loop.current_step.step)
    assert steps == [1, 1, 2]
    assert model.weight.isfinite().all()


@pytest.mark.parametrize("way", ["PlainLoop", "manager.modify", "modify"])
def test_finalize_takes_the_recipe_out_of_the_optimizer(way):
    model = nn.Linear(8, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    manager = ScheduledModifierManager.from_yaml(PRUNE)
    if way == "PlainLoop":
        PlainLoop(manager, model, optimizer, 1).finalize()
    else:
        {"manager.modify": manager.modify, "modify": partial(modify, manager)}[way](model, optimizer, 1)
        manager.finalize()
    nn.init.ones_(model.weight)
    model(torch.ones(1, 8)).sum().backward()
    optimizer.step()
    assert not (model.weight == 1).any()
    assert int((model.weight == 0).sum()) in (0, 64)  # 1 - 1: the plain step, no mask


@pytest.mark.parametrize("recipe", [QUANTIZE, POWER, DROP, DISTILL_LAYERS_ALONE])
def test_what_changes_the_structure_keeps_the_parameters_that_the_optimizer_has(recipe):
    model, teacher = tiny_bert(), tiny_bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    PlainLoop(ScheduledModifierManager.from_yaml(recipe), model, optimizer, STEPS_PER_EPOCH, teacher=teacher)
    known = {id(parameter) for parameter in optimizer.param_groups[0]["params"]}
    assert {id(parameter) for parameter in model.parameters()} <= known


def test_a_recipe_that_distills_needs_a_teacher():
    model = tiny_bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(ManagerError, match="the recipe distills: give PlainLoop a teacher"):
        ScheduledModifierManager.from_yaml(DISTILL).modify(model, optimizer, STEPS_PER_EPOCH)


def test_an_epoch_has_at_least_one_step():
    model = nn.Linear(8, 8)
    with pytest.raises(ValueError, match="steps_per_epoch must be at least 1, got 0"):
        PlainLoop(ScheduledModifierManager(), model, torch.optim.SGD(model.parameters()), 0)
    with pytest.raises(ValueError, match="steps_per_epoch must be at least 1, got 0"):
        ScheduledModifierManager().modify(model, torch.optim.SGD(model.parameters()), 0)
