"""A recipe inside Trainer: what must hold whatever the recipe (DESIGN: invariants)."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, Trainer, TrainerCallback

from helpers.recipes import DISTILL, DROP, EVERYTHING, LEARNING_RATE, PRUNE, QUANTIZE
from helpers.trainers import SparseTrainer, arguments, assert_same_model, losses, make_data, make_model, make_trainer
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.quantization.checkpoint import QuantizationError
from sparsification.quantization.modules import enable_fake_quant, fake_quant_enabled, quantizers
from sparsification.recipe.model import RECIPE_FILE


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    batch = {key: torch.stack([row[key] for row in make_data(4)]) for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        return model.eval()(**batch).start_logits


@pytest.mark.parametrize("recipe", [None, "modifiers: []\n"])
def test_an_empty_recipe_trains_bit_identically_to_the_plain_trainer(tmp_path, recipe):
    plain = make_trainer(tmp_path / "plain", None, Trainer)
    plain.train()
    sparse = make_trainer(tmp_path / "sparse", recipe)
    sparse.train()
    assert_same_model(plain.model, sparse.model)
    assert losses(plain) == losses(sparse)


class Stop(TrainerCallback):
    """Save a checkpoint after a step, and stop there as if the process was killed."""

    class Stopped(Exception):
        """The run is stopped."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs) -> None:
        control.should_save = state.global_step == self.step

    def on_save(self, args, state, control, **kwargs) -> None:
        raise self.Stopped


@pytest.mark.parametrize("name", EVERYTHING)
def test_resumed_run_equals_uninterrupted_run_and_its_checkpoints_load_in_plain_transformers(tmp_path, name):
    whole = make_trainer(tmp_path / "whole", EVERYTHING[name])
    whole.train()
    start, checkpoint = 0, None
    for stop in (2, 5, 13, 16, 20):
        part = make_trainer(tmp_path / "parts", EVERYTHING[name], save_total_limit=1)
        part.add_callback(Stop(stop))
        with pytest.raises(Stop.Stopped):
            part.train(resume_from_checkpoint=checkpoint)
        assert losses(whole)[start:stop] == losses(part)[start:]
        start, checkpoint = stop, str(tmp_path / "parts" / f"checkpoint-{stop}")
        loaded, info = AutoModelForQuestionAnswering.from_pretrained(checkpoint, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        layers = part.model.config.num_hidden_layers
        assert loaded.config.num_hidden_layers == len(loaded.bert.encoder.layer) == layers
        enable_fake_quant(part.model, False)
        assert torch.equal(logits_of(loaded), logits_of(part.model))
    last = make_trainer(tmp_path / "parts", EVERYTHING[name])
    last.train(resume_from_checkpoint=checkpoint)
    assert losses(whole)[start:] == losses(last)[start:]
    assert_same_model(whole.model, last.model)


def test_what_is_pruned_stays_zero_through_momentum_clipping_and_weight_decay(tmp_path):
    trainer = make_trainer(tmp_path, PRUNE, weight_decay=0.1, max_grad_norm=0.5, save_strategy="epoch")
    (pruning,) = trainer.manager.modifiers
    seen = []
    step = trainer.training_step

    def watch(*args, **kwargs):
        for name, packed in pruning.masked.state_dict().items():
            weight = pruning.masked.weights[name]
            mask = torch.tensor([bool(int(b)) for byte in packed.tolist() for b in f"{byte:08b}"][: weight.numel()])
            assert (weight.flatten()[~mask] == 0).all()
        seen.append(pruning.masked.sparsity())
        return step(*args, **kwargs)

    trainer.training_step = watch
    trainer.train()
    assert seen == sorted(seen)
    assert pruning.masked.sparsity() == pytest.approx(0.8, abs=0.005)
    saved = load_file(tmp_path / "checkpoint-24" / "model.safetensors")
    for name in pruning.masked.weights:
        zeros = saved[name][saved[name] == 0]
        assert not torch.signbit(zeros).any()  # +0.0 compresses, a mixture of signs does not


def test_gradients_of_pruned_weights_do_not_count_in_clipping(tmp_path):
    trainer = make_trainer(tmp_path, PRUNE)
    (pruning,) = trainer.manager.modifiers
    clip = trainer._clip_grad_norm
    checked = []

    def check(model):
        for name in pruning.masked.state_dict():
            weight = pruning.masked.weights[name]
            checked.append(int((weight.grad[weight == 0] != 0).sum()))
        return clip(model)

    trainer._clip_grad_norm = check
    trainer.train()
    assert checked and not any(checked)


def test_accumulation_gives_the_same_schedule(tmp_path):
    recipe = PRUNE + LEARNING_RATE
    whole = make_trainer(tmp_path / "8x1", recipe, per_device_train_batch_size=8)
    parts = make_trainer(tmp_path / "2x4", recipe, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    for trainer in (whole, parts):
        trainer.train()
    keys = ("learning_rate", "GMPruningModifier/target_sparsity", "epoch")
    first, second = (
        [[entry[key] for key in keys] for entry in trainer.state.log_history if "loss" in entry]
        for trainer in (whole, parts)
    )
    assert first == second
    assert len(first) == 12
    for (name, one), two in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        assert int((one == 0).sum()) == int((two == 0).sum()), name


def test_teacher_is_left_alone(tmp_path):
    trainer = make_trainer(tmp_path, DISTILL, save_strategy="epoch")
    before = copy.deepcopy(trainer.teacher.state_dict())
    trainer.train()
    assert not trainer.teacher.training
    assert not any(param.requires_grad or param.grad is not None for param in trainer.teacher.parameters())
    teacher = {id(param) for param in trainer.teacher.parameters()}
    assert not any(id(param) in teacher for group in trainer.optimizer.param_groups for param in group["params"])
    for name, tensor in trainer.teacher.state_dict().items():
        assert torch.equal(tensor, before[name])
    saved = load_file(tmp_path / "checkpoint-24" / "model.safetensors")
    assert set(saved) == set(make_model().state_dict())


def test_teacher_is_given_the_inputs_that_the_recipe_names(tmp_path):
    trainer = make_trainer(tmp_path, DISTILL + "    teacher_input_keys: [input_ids]\n", num_train_epochs=1)
    seen = []
    forward = trainer.teacher.forward
    trainer.teacher.forward = lambda **inputs: seen.append(set(inputs)) or forward(**inputs)
    trainer.train()
    assert len(seen) == 8
    assert all(names == {"input_ids"} for names in seen)


def test_recipe_decides_length_and_learning_rate_and_says_so(tmp_path, caplog):
    trainer = make_trainer(tmp_path, LEARNING_RATE, num_train_epochs=7, learning_rate=0.5)
    lines = [record.message for record in caplog.records if record.name == "sparsification.trainer.mixin"]
    assert len(lines) == 2
    assert "--num_train_epochs 7 is not used" in lines[0]
    assert "learning rate" in lines[1]
    trainer.train()
    assert trainer.state.global_step == 24
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates[:4] == [0.5] * 4  # before the recipe's window the optimizer's own
    assert rates[4:8] == pytest.approx([0.01, 0.007, 0.004, 0.001])
    assert rates[8:12] == pytest.approx([0.01, 0.007, 0.004, 0.001])


def test_flags_set_the_optimizer_beside_a_recipe(tmp_path):
    flags = {"adam_beta1": 0.8, "adam_beta2": 0.98, "weight_decay": 0.125, "warmup_steps": 0.25}
    trainer = make_trainer(tmp_path, PRUNE, **flags)
    trainer.train()
    assert {group["betas"] for group in trainer.optimizer.param_groups} == {(0.8, 0.98)}
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.125, 0.0}  # 0: biases and norms
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "loss" in entry]
    assert rates[:7] == pytest.approx([5e-3 * step / 6 for step in range(7)])  # 6 of 24 steps


def test_best_checkpoint_is_one_after_the_last_change(tmp_path):
    trainer = make_trainer(
        tmp_path,
        PRUNE,
        save_strategy="steps",
        save_steps=4,
        eval_strategy="steps",
        eval_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="eval_score",
        greater_is_better=True,
        eval_dataset=make_data(4),
    )
    # The dense model is the best of all, and 16 (epoch 2.0) is before the last mask is made.
    scores = {4: 0.9, 8: 0.8, 12: 0.7, 16: 0.6, 20: 0.5, 24: 0.4}
    evaluate = trainer.evaluate
    trainer.evaluate = lambda *args, **kwargs: (
        evaluate(*args, **kwargs) | {"eval_score": scores[trainer.state.global_step]}
    )
    trainer.train()
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-20")
    assert trainer.state.best_metric == 0.5
    (pruning,) = trainer.manager.modifiers
    assert pruning.masked.sparsity() == pytest.approx(0.8, abs=0.005)


def test_recipe_is_saved_with_overrides_resolved_and_loads_again(tmp_path):
    recipe = "num_epochs: 3\ntraining_modifiers:\n  - !EpochRangeModifier\n    end_epoch: eval(num_epochs / 2)\n"
    trainer = SparseTrainer(
        model=make_model(),
        args=arguments(tmp_path),
        train_dataset=make_data(),
        manager=ScheduledModifierManager.from_yaml(recipe, {"num_epochs": 2}),
    )
    trainer.save_model()
    assert ScheduledModifierManager.from_yaml(tmp_path / RECIPE_FILE).max_epochs == 1.0


def test_checkpoint_of_another_recipe_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, PRUNE, save_strategy="epoch")
    trainer.train()
    other = make_trainer(tmp_path, PRUNE.replace("0.8", "0.9"))
    with pytest.raises(ManagerError, match="it was trained by another recipe"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    plain = make_trainer(tmp_path / "plain", None, save_strategy="epoch")
    plain.train()
    with pytest.raises(ManagerError, match="saved without one"):
        other.train(resume_from_checkpoint=str(tmp_path / "plain" / "checkpoint-8"))


def test_recipe_for_a_larger_model_is_refused():
    manager = ScheduledModifierManager.from_yaml(DROP.replace("layer.1]", "layer.7]"))
    with pytest.raises(ManagerError, match=r"bert.encoder.layer has layers 0 to 2; is the recipe for a larger model"):
        manager.initialize(make_model())


def test_two_modifiers_that_prune_one_weight_at_a_time_are_refused():
    fight = PRUNE + "  - !ConstantPruningModifier\n    params: ['re:.*query.weight']\n"
    with pytest.raises(ManagerError, match="both prune bert.encoder.layer.0.attention.self.query.weight and 2 more"):
        ScheduledModifierManager.from_yaml(fight).initialize(make_model())
    touching = PRUNE + "  - !ConstantPruningModifier\n    params: ['re:.*query.weight']\n    start_epoch: 2.0\n"
    ScheduledModifierManager.from_yaml(touching).initialize(make_model())


def test_trainer_state_is_plain_json(tmp_path):
    make_trainer(tmp_path, PRUNE + DISTILL, save_strategy="epoch").train()
    state = json.loads((tmp_path / "checkpoint-24" / "trainer_state.json").read_text())
    assert state["global_step"] == 24


def from_folder(folder: Path, output_dir: Path, recipe: str | None = None, **changes) -> SparseTrainer:
    """A trainer of a saved model."""
    manager = ScheduledModifierManager.from_yaml(recipe) if recipe else None
    model = AutoModelForQuestionAnswering.from_pretrained(folder)
    return SparseTrainer(model=model, args=arguments(output_dir, **changes), train_dataset=make_data(), manager=manager)


def test_quantized_model_is_saved_and_loaded_bit_by_bit(tmp_path):
    trainer = make_trainer(tmp_path, PRUNE + QUANTIZE, save_strategy="epoch")
    trainer.train()
    trainer.save_model()
    expected = logits_of(trainer.model)
    loaded = from_folder(tmp_path, tmp_path / "again")
    assert fake_quant_enabled(loaded.model)
    assert torch.equal(logits_of(loaded.model), expected)
    loaded.save_model()
    assert torch.equal(logits_of(from_folder(tmp_path / "again", tmp_path / "third").model), expected)
    plain = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    enable_fake_quant(trainer.model, False)
    trainer.model.set_attn_implementation(plain.config._attn_implementation)
    assert_same_model(plain, trainer.model)


def test_quantized_model_is_transferred_with_its_ranges(tmp_path):
    trainer = make_trainer(tmp_path / "first", PRUNE + QUANTIZE)
    trainer.train()
    trainer.save_model()
    hold = "modifiers:\n  - !ConstantPruningModifier\n    params: ['re:.*layer.*weight']\n"
    transfer = from_folder(tmp_path / "first", tmp_path / "second", hold, num_train_epochs=1)
    ranges = {name: quantizer.max_val.clone() for name, quantizer in quantizers(transfer.model).items()}
    zeros = {name: int((param == 0).sum()) for name, param in transfer.model.named_parameters()}
    transfer.train()
    assert fake_quant_enabled(transfer.model)
    for name, quantizer in quantizers(transfer.model).items():
        assert torch.equal(quantizer.max_val, ranges[name])
    for name, param in transfer.model.named_parameters():
        assert int((param == 0).sum()) >= zeros[name]
    assert not torch.equal(transfer.model.qa_outputs.weight, trainer.model.qa_outputs.weight)


def test_best_quantized_checkpoint_comes_back_with_its_own_frozen_ranges(tmp_path):
    settings = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "learning_rate": 0.05}
    settings |= {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 4, "eval_steps": 4}
    trainer = make_trainer(tmp_path, QUANTIZE, eval_dataset=make_data(8), save_total_limit=None, **settings)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert int(best.name.split("-")[1]) > 14  # the step at which the ranges are frozen
    assert torch.equal(logits_of(from_folder(best, tmp_path / "again").model), logits_of(trainer.model))


def test_one_shot_prunes_and_calibrates(tmp_path):
    trainer = make_trainer(tmp_path, PRUNE + QUANTIZE + "    num_calibration_steps: 3\n")
    seen = []
    trainer.model.register_forward_hook(lambda *_: seen.append(trainer.model.training))
    trainer.apply_one_shot()
    assert seen == [False] * 3
    assert trainer.manager.modifiers[0].masked.sparsity() == pytest.approx(0.8, abs=0.005)
    assert all(
        quantizer.observed and not quantizer.observer_enabled for quantizer in quantizers(trainer.model).values()
    )
    assert torch.equal(logits_of(from_folder(tmp_path, tmp_path / "again").model), logits_of(trainer.model))


def test_sixteen_bits_stay_out_of_what_is_fake_quantized_and_the_log_says_so(tmp_path, caplog):
    make_trainer(tmp_path, QUANTIZE, bf16=True)
    assert any("--bf16 does not apply to fake-quantized modules" in record.message for record in caplog.records)


def test_another_quantization_than_the_saved_one_is_refused(tmp_path):
    trainer = make_trainer(tmp_path, QUANTIZE)
    trainer.train()
    trainer.save_model()
    with pytest.raises(QuantizationError, match="the saved model's quantization differs from the recipe's"):
        from_folder(tmp_path, tmp_path / "again", QUANTIZE + "    reduce_range: True\n")
    assert fake_quant_enabled(from_folder(tmp_path, tmp_path / "again", QUANTIZE).model)
