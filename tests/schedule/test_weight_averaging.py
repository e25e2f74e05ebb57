"""Averages of weights, compared with those computed by hand and with the mean of a run's checkpoints."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import TrainerCallback

from helpers.recipes import POWER, PRUNE, QUANTIZE
from helpers.resuming import assert_resumes_exactly
from helpers.trainers import SparseTrainer, assert_same_model, make_data, make_trainer
from sparsification.manager import ScheduledModifierManager
from sparsification.quantization.modules import quantizers
from sparsification.recipe.document import RecipeError
from sparsification.trainer.resuming import STATE_FILE

MEAN_OF_LAST = "\n  - !WeightAveragingModifier {method: swa, start_epoch: 2.0}\n"  # steps 17 to 24 of 24
EMA = "{method: ema, decay: 0.5, start_epoch: 1.0, end_epoch: 2.0}"
SWA = EMA.replace("ema", "swa")


def average(keys: str) -> ScheduledModifierManager:
    return ScheduledModifierManager.from_yaml(f"modifiers:\n  - !WeightAveragingModifier {keys}\n")


def counter(dtype: torch.dtype = torch.float32) -> nn.Linear:
    """A module whose weight is the number of its steps."""
    module = nn.Linear(1, 1, bias=False, dtype=dtype)
    nn.init.zeros_(module.weight)
    return module


def train(manager: ScheduledModifierManager, module: nn.Linear, steps: int) -> list[float]:
    """The weight after each step, 4 an epoch, and after the end of training."""
    optimizer = manager.modify(module, torch.optim.SGD(module.parameters(), lr=1.0), steps_per_epoch=4)
    seen = []
    for _ in range(steps):
        module.weight.grad = -torch.ones_like(module.weight)
        optimizer.step()
        seen.append(module.weight.item())
    manager.finalize()
    return [*seen, module.weight.item()]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (SWA, (5 + 6 + 7 + 8) / 4),
        (SWA.replace("}", ", update_frequency: 0.5}"), (6 + 8) / 2),
        (SWA.replace("2.0", "1.4"), (5 + 6) / 2),  # ends before step 6
        (EMA, ((5 * 0.5 + 6 * 0.5) * 0.5 + 7 * 0.5) * 0.5 + 8 * 0.5),
        (EMA.replace("0.5", "0.75"), ((5 * 0.75 + 6 * 0.25) * 0.75 + 7 * 0.25) * 0.75 + 8 * 0.25),
    ],
)
def test_average_replaces_the_weights_at_the_end_of_its_window_and_training_goes_on_from_it(keys, expected):
    weights = train(average(keys), counter(), 10)
    end = 6 if "1.4" in keys else 8
    assert weights == [*range(1, end), *(expected + step for step in range(11 - end)), expected + 10 - end]


@pytest.mark.parametrize("end", [-1, 2.5, 9.0])
def test_average_of_a_window_that_is_open_at_the_end_is_put_in_there(end):
    keys = SWA.replace("2.0", str(end))
    assert train(average(keys), counter(), 9) == [*range(1, 10), (5 + 6 + 7 + 8 + 9) / 5]
    assert train(average(keys), counter(), 4) == [1, 2, 3, 4, 4]


def test_average_of_sixteen_bits_is_in_thirty_two():
    manager, module = average(SWA), counter(torch.bfloat16)
    manager.initialize(module)
    (modifier,) = manager.modifiers
    for weight in (256.0, 258.0, 258.0):  # bfloat16 has no number between them
        nn.init.constant_(module.weight, weight)
        modifier._read_weights()
    assert manager.state_dict()["WeightAveragingModifier/mean.weight"].item() == pytest.approx(772 / 3)
    manager.finalize()
    assert module.weight.dtype == torch.bfloat16 and module.weight.item() == 258


def test_state_is_one_number_in_fp32_for_each_trainable_weight_while_the_window_is_open():
    module = nn.ModuleDict({"one": nn.Linear(3, 3), "tied": nn.Linear(3, 3), "norm": nn.BatchNorm1d(3)})
    module["tied"].weight = module["one"].weight
    module["tied"].bias.requires_grad_(False)
    manager = average("{start_epoch: 1.0, end_epoch: 2.0}")
    optimizer = manager.modify(module, torch.optim.SGD(module.parameters(), lr=1.0), steps_per_epoch=2)
    sizes = []
    for _ in range(5):
        optimizer.step()
        state = manager.state_dict()
        sizes.append(len(state))
        if state:
            assert sum(tensor.nbytes for name, tensor in state.items() if "/mean." in name) == 4 * (9 + 3 + 3 + 3)
            assert {tensor.dtype for tensor in state.values()} == {torch.float32, torch.int64}
    assert sizes == [0, 0, 5, 0, 0]


@pytest.mark.parametrize("state", [{"mean.bias": torch.zeros(1)}, {"mean.weight": torch.zeros(3)}])
def test_state_of_another_model_is_refused(state):
    manager = average(EMA)
    manager.initialize(counter())
    with pytest.raises((KeyError, RuntimeError)):  # Trainer's message says that it does not fit the model
        manager.load_state_dict({f"WeightAveragingModifier/{name}": tensor for name, tensor in state.items()})


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("{decay: 0}", r"decay must be in \(0, 1\), got 0"),
        ("{decay: 1.0}", r"decay must be in \(0, 1\), got 1"),
        ("{method: mean}", "method must be 'ema' or 'swa'"),
        ("{start_epoch: 1.0, end_epoch: 1.0}", "end_epoch must be after start_epoch, by update_frequency or more"),
        ("{start_epoch: 1.0, end_epoch: 2.0, update_frequency: 1.5}", "by update_frequency or more, got 1, 2 and 1.5"),
    ],
)
def test_wrong_values_are_refused(keys, words):
    with pytest.raises(RecipeError, match=words):
        average(keys)


SAVING = {"save_strategy": "steps", "save_steps": 1, "eval_dataset": make_data(4)}


def trained(folder: Path, recipe: str, *callbacks, **settings) -> SparseTrainer:
    trainer = make_trainer(folder, recipe, **settings)
    for callback in callbacks:
        trainer.add_callback(callback)
    trainer.train()
    return trainer


def weights_of(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoint-{step}" / "model.safetensors")


PRUNE_WITH_POWERS = PRUNE + POWER.replace("1.75", "3.0")


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> list[dict[str, torch.Tensor]]:
    """The weights of a run without averages after each of its steps 17 to 24."""
    folder = tmp_path_factory.mktemp("raw")
    trained(folder, PRUNE_WITH_POWERS, **SAVING)
    return [weights_of(folder, step) for step in range(17, 25)]


@pytest.mark.parametrize("end", ["", ", end_epoch: 3.0"])
@pytest.mark.parametrize(
    "evaluating", [{"eval_strategy": "epoch"}, {"eval_strategy": "steps", "eval_steps": 5}], ids=["epoch", "steps"]
)
def test_last_checkpoint_and_last_evaluation_have_the_mean_of_the_checkpoints_of_a_run_without_averages(
    tmp_path, raw, end, evaluating
):
    recipe = PRUNE_WITH_POWERS + MEAN_OF_LAST.replace("}", end + "}")
    trainer = trained(tmp_path / "mean", recipe, **SAVING | evaluating)
    last = weights_of(tmp_path / "mean", 24)
    for name, weight in trainer.model.named_parameters():
        torch.testing.assert_close(last[name], torch.stack([part[name] for part in raw]).mean(dim=0))
        assert torch.equal(last[name], weight)
        assert torch.equal(last[name] == 0, raw[-1][name] == 0), "what is pruned is zero, and nothing else"
        assert torch.equal(weights_of(tmp_path / "mean", 23)[name], raw[-2][name])
    evaluated = [row["eval_loss"] for row in trainer.state.log_history if row["step"] == 24 and "eval_loss" in row]
    assert evaluated == [trainer.evaluate()["eval_loss"]]
    states = [load_file(tmp_path / "mean" / f"checkpoint-{step}" / STATE_FILE) for step in (16, 23, 24)]
    assert [any("mean." in name for name in state) for state in states] == [False, True, False]


def test_weights_that_a_mask_in_the_window_prunes_are_zero(tmp_path):
    overlapping = PRUNE + MEAN_OF_LAST.replace("2.0", "0.5")
    raw, averaged = (dict(trained(tmp_path, recipe).model.named_parameters()) for recipe in (PRUNE, overlapping))
    assert any(not torch.equal(raw[name], averaged[name]) for name in raw)
    assert all(torch.equal(raw[name] == 0, averaged[name] == 0) for name in raw)


def test_quantization_ranges_are_those_of_the_run_without_averages(tmp_path):
    raw, averaged = (trained(tmp_path, recipe).model for recipe in (QUANTIZE, QUANTIZE + MEAN_OF_LAST))
    for name, quantizer in quantizers(raw).items():
        assert torch.equal(quantizer.max_val, quantizers(averaged)[name].max_val)
    assert not torch.equal(raw.qa_outputs.weight, averaged.qa_outputs.weight)


class StopAt20(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step == 20


class BestAt(TrainerCallback):
    """Gives the highest score to the evaluation after one step."""

    def __init__(self, step: int):
        self.step = step

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        metrics["eval_score"] = float(state.global_step == self.step)


BEST = {"load_best_model_at_end": True, "metric_for_best_model": "eval_score", "greater_is_better": True}
BEST |= {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 4, "save_steps": 4}


def test_average_is_one_of_those_from_which_the_best_is_chosen(tmp_path):
    last = trained(tmp_path / "last", "modifiers:" + MEAN_OF_LAST)
    best = trained(tmp_path / "best", "modifiers:" + MEAN_OF_LAST, BestAt(24), **SAVING | BEST)
    assert best.state.best_global_step == 24
    assert_same_model(best.model, last.model)


@pytest.mark.parametrize("stops", [False, True])
def test_best_checkpoint_is_loaded_over_the_average(tmp_path, stops):
    callbacks = [BestAt(20), StopAt20()] if stops else [BestAt(20)]
    trainer = trained(tmp_path, "modifiers:" + MEAN_OF_LAST, *callbacks, **SAVING | BEST)
    assert trainer.state.global_step == (20 if stops else 24)
    best = weights_of(tmp_path, 20)
    assert all(torch.equal(weight, best[name]) for name, weight in trainer.model.named_parameters())


def test_run_that_stops_early_ends_with_its_average(tmp_path):
    model = trained(tmp_path, "modifiers:" + MEAN_OF_LAST, StopAt20(), **SAVING).model
    parts = [weights_of(tmp_path, step) for step in range(17, 21)]
    for name, weight in model.named_parameters():
        torch.testing.assert_close(weight, torch.stack([part[name] for part in parts]).mean(dim=0))


@pytest.mark.parametrize("method", ["ema", "swa"])
@pytest.mark.parametrize("end", [-1, 2.75])
def test_run_stopped_while_its_weights_are_averaged_ends_as_if_it_had_not_been(tmp_path, method, end):
    keys = f"{{method: {method}, decay: 0.9, start_epoch: 1.5, end_epoch: {end}, update_frequency: 0.25}}"
    assert_resumes_exactly(tmp_path, PRUNE + QUANTIZE + f"  - !WeightAveragingModifier {keys}\n", {}, 0.85, 1)
