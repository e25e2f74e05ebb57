"""--bf16_full_eval and --fp16_full_eval: what they compute, and that the model is as it was afterwards."""

import copy

import pytest
import torch
from transformers import Trainer

import run_qa
from helpers.command_lines import squad_command
from helpers.recipes import QUANTIZE
from helpers.trainers import arguments, make_data, make_model, make_trainer
from sparsification.quantization.modules import fake_quant_enabled, quantizers

FLAGS = {"bf16_full_eval": torch.bfloat16, "fp16_full_eval": torch.float16}


def logits_of(trainer: Trainer) -> torch.Tensor:
    return torch.from_numpy(trainer.predict(make_data()).predictions[0]).float()


def state(model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


def assert_same_state(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype and torch.equal(tensor, other[name]), name


@pytest.mark.parametrize("flag", FLAGS)
def test_model_that_is_not_quantized_evaluates_as_in_the_plain_trainer_and_keeps_its_weights(tmp_path, flag):
    plain = Trainer(model=make_model(), args=arguments(tmp_path / "plain", **{flag: True}), eval_dataset=make_data())
    trainer = make_trainer(tmp_path / "ours", None, eval_dataset=make_data(), **{flag: True})
    before = state(trainer.model)
    assert torch.equal(logits_of(trainer), logits_of(plain))
    assert next(plain.model.parameters()).dtype == FLAGS[flag]
    assert_same_state(state(trainer.model), before)
    assert getattr(trainer.args, flag)


@pytest.mark.parametrize("flag", FLAGS)
def test_quantized_model_evaluates_under_autocast_and_keeps_its_ranges(tmp_path, flag):
    trainer = make_trainer(tmp_path, QUANTIZE, eval_dataset=make_data(), **{flag: True})
    trainer.train()
    before, reference = state(trainer.model), copy.deepcopy(trainer.model).eval()
    assert fake_quant_enabled(reference) and all(quantizer.observed for quantizer in quantizers(reference).values())
    logits = logits_of(trainer)
    with torch.no_grad(), torch.autocast("cpu", FLAGS[flag]):
        batches = trainer.get_eval_dataloader(make_data())
        expected = torch.cat([reference(**batch).start_logits for batch in batches]).float()
    assert torch.equal(logits, expected)
    assert_same_state(state(trainer.model), before)
    assert getattr(trainer.args, flag)
    in_fp32 = make_trainer(tmp_path / "fp32", QUANTIZE, eval_dataset=make_data())
    in_fp32.train()
    assert_same_state(state(in_fp32.model), before)  # the flag does not reach training


@pytest.mark.parametrize("recipe", ["quantize", "prune"])
def test_exported_file_is_the_one_without_the_flag(tiny_model_dir, tiny_squad, tmp_path, recipe):
    modifier = (
        "!QuantizationModifier {start_epoch: 0.0, disable_quantization_observer_epoch: 0.5}"
        if recipe == "quantize"
        else "!MagnitudePruningModifier {params: __ALL_PRUNABLE__, start_epoch: 0.0, end_epoch: 0.5, "
        "init_sparsity: 0.1, final_sparsity: 0.5, update_frequency: 0.1}"
    )
    (tmp_path / "recipe.yaml").write_text(f"modifiers:\n  - !EpochRangeModifier {{end_epoch: 1.0}}\n  - {modifier}\n")
    files = []
    for name, more in (("with", ["--bf16_full_eval"]), ("without", [])):
        fixed = (
            "--model_name_or_path",
            tiny_model_dir,
            "--recipe",
            tmp_path / "recipe.yaml",
            "--do_train",
            "--do_eval",
        )
        out = ("--output_dir", tmp_path / name, "--onnx_export_path", tmp_path / name / "onnx")
        metrics = run_qa.main(squad_command(tiny_squad, *fixed, *out, *more))
        assert "eval_f1" in metrics
        files.append((tmp_path / name / "onnx" / "model.onnx").read_bytes())
    assert files[0] == files[1]
