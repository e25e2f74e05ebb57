"""From a recipe to an int8 file, from the command line: train, evaluate, export, again, and what goes wrong."""

import json
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering

import run_qa
from helpers import ROOT
from helpers.command_lines import squad_command
from helpers.models import save_model
from helpers.processes import run_script
from sparsification.export.onnx import ExportError
from sparsification.quantization.checkpoint import QUANTIZATION_FILE, QuantizationError
from sparsification.tasks.errors import UsageError

RECIPE = ROOT / "recipes" / "bert-base-6layers_prune_quant90.md"


def integers_in(path: Path) -> set[int]:
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer if len(tensor.dims) > 1}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_squad):
    """A thin 12-layer BERT after the tutorial's recipe in four epochs: folder, metrics."""
    folder = tmp_path_factory.mktemp("int8")
    save_model(folder / "bert", layers=12)
    metrics = run_qa.main(
        squad_command(
            tiny_squad,
            *("--model_name_or_path", folder / "bert", "--distill_teacher", "self", "--recipe", RECIPE),
            *("--recipe_args", "num_epochs=8,init_lr=1e-3", "--do_train", "--do_eval", "--seed", 1),
            *("--output_dir", folder / "out", "--onnx_export_path", folder / "onnx", "--onnx_target", "all"),
            *("--save_strategy", "epoch", "--onnx_exporter", "auto", "--skip_trial"),
        )
    )
    return folder, metrics


def test_tutorial_recipe_leaves_a_plain_checkpoint_and_two_int8_files(trained):
    folder, metrics = trained
    plain = AutoModelForQuestionAnswering.from_pretrained(folder / "out")
    assert plain.config.num_hidden_layers == 6
    for name, weight in load_file(folder / "out" / "model.safetensors").items():
        if "encoder" in name and weight.dim() == 2:
            assert int((weight == 0).sum()) == 4 * round(0.9 * weight.numel() / 4), name
    assert (folder / "out" / QUANTIZATION_FILE).exists()
    for name, opset in (("model.onnx", 18), ("deepsparse/model.onnx", 14)):
        assert [entry.version for entry in onnx.load(folder / "onnx" / name).opset_import] == [opset]
        assert onnx.TensorProto.INT8 in integers_in(folder / "onnx" / name)
        assert onnx.TensorProto.FLOAT not in integers_in(folder / "onnx" / name)
        assert (folder / "onnx" / name).with_name("tokenizer.json").exists()
    assert 0 < metrics["eval_onnx_mean_difference"] < 0.25  # in standard deviations of the logits
    assert metrics["eval_onnx_f1"] == pytest.approx(metrics["eval_f1"], abs=5)


def test_saved_model_evaluates_and_exports_again_without_a_recipe(trained, tiny_squad, tmp_path):
    folder, metrics = trained
    again = run_qa.main(
        squad_command(
            tiny_squad,
            *("--model_name_or_path", folder / "out", "--do_eval", "--output_dir", tmp_path / "out"),
            *("--onnx_export_path", tmp_path / "onnx", "--onnx_exporter", "auto"),
        )
    )
    for name in ("eval_f1", "eval_exact_match", "eval_onnx_f1"):
        assert again[name] == metrics[name]
    first, second = (folder / "out" / "eval_nbest_predictions.json"), (tmp_path / "out" / "eval_nbest_predictions.json")
    assert json.loads(first.read_text()) == json.loads(second.read_text())  # probabilities included
    assert (tmp_path / "onnx" / "model.onnx").read_bytes() == (folder / "onnx" / "model.onnx").read_bytes()


def test_checkpoint_whose_ranges_still_move_is_not_exported(trained, tiny_squad, tmp_path):
    folder, _ = trained
    moving = folder / "out" / "checkpoint-21"  # epoch 7 of 8: ranges are frozen in the step after it
    assert (moving / QUANTIZATION_FILE).exists()
    with pytest.raises(ExportError, match="still follow the data"):
        run_qa.main(
            squad_command(
                tiny_squad,
                *("--model_name_or_path", moving, "--do_eval", "--output_dir", tmp_path / "out"),
                *("--onnx_export_path", tmp_path / "onnx"),
            )
        )
    assert not (tmp_path / "onnx" / "model.onnx").exists()


def test_one_shot_calibrates_and_exports(tiny_model_dir, tiny_squad, tmp_path):
    metrics = run_qa.main(
        squad_command(
            tiny_squad,
            *("--model_name_or_path", tiny_model_dir, "--recipe", ROOT / "recipes" / "quantize.md", "--one_shot"),
            *("--do_eval", "--output_dir", tmp_path / "out", "--onnx_export_path", tmp_path / "onnx"),
        )
    )
    assert (tmp_path / "out" / QUANTIZATION_FILE).exists()
    assert "train_loss" not in metrics and "eval_onnx_f1" in metrics
    dense = load_file(tiny_model_dir / "model.safetensors")
    assert all((dense[name] == weight).all() for name, weight in load_file(tmp_path / "out/model.safetensors").items())


def encoder_sparsity(weights) -> float:
    """Of the linear weights of all encoder layers together."""
    inside = [weight for name, weight in weights.items() if ".encoder.layer." in name and weight.dim() == 2]
    return sum(int((weight == 0).sum()) for weight in inside) / sum(weight.numel() for weight in inside)


def test_one_shot_reconstructs_and_quantizes_and_exports(tiny_model_dir, tiny_squad, tmp_path):
    metrics = run_qa.main(
        squad_command(
            tiny_squad,
            *("--model_name_or_path", tiny_model_dir, "--one_shot", "--do_eval", "--output_dir", tmp_path / "out"),
            *("--recipe", ROOT / "recipes" / "one-shot_reconstruct50_int8.md", "--recipe_args", "num_samples=6"),
            *("--onnx_export_path", tmp_path / "onnx"),
        )
    )
    assert (tmp_path / "out" / QUANTIZATION_FILE).exists()
    assert "train_loss" not in metrics and "eval_onnx_f1" in metrics
    dense = load_file(tiny_model_dir / "model.safetensors")
    pruned = load_file(tmp_path / "out" / "model.safetensors")
    assert encoder_sparsity(pruned) == pytest.approx(0.5, abs=1e-3)
    for name in ("attention.self.query", "intermediate.dense", "output.dense"):
        weight = f"bert.encoder.layer.0.{name}.weight"
        kept = pruned[weight] != 0
        assert not (pruned[weight][kept] == dense[weight][kept]).all()


def test_one_shot_recipe_also_trains_under_its_mask(tiny_model_dir, tiny_squad, tmp_path):
    metrics = run_qa.main(
        squad_command(
            tiny_squad,
            *("--model_name_or_path", tiny_model_dir, "--do_train", "--do_eval", "--output_dir", tmp_path / "out"),
            *("--recipe", ROOT / "recipes" / "one-shot_reconstruct50_int8.md", "--recipe_args", "num_samples=6"),
            *("--onnx_export_path", tmp_path / "onnx"),
        )
    )
    assert "train_loss" in metrics and "eval_onnx_f1" in metrics
    assert encoder_sparsity(load_file(tmp_path / "out" / "model.safetensors")) == pytest.approx(0.5, abs=1e-3)


def test_one_shot_refits_a_finished_mask_to_the_teacher(tiny_model_dir, tiny_squad, tmp_path):
    recipe = (ROOT / "recipes" / "one-shot_reconstruct50.md").read_text().split("---")[1]
    (tmp_path / "prune.yaml").write_text(recipe)
    (tmp_path / "refit.yaml").write_text(recipe + "    mask_method: present\n    reference: teacher\n")
    pruned, again = tmp_path / "pruned", tmp_path / "again"
    flags = ["--one_shot", "--recipe_args", "num_samples=6,allocation=uniform", "--do_eval"]
    run_qa.main(
        squad_command(
            tiny_squad,
            *("--model_name_or_path", tiny_model_dir, "--output_dir", pruned, "--recipe", tmp_path / "prune.yaml"),
            *flags,
        )
    )
    metrics = run_qa.main(
        squad_command(
            tiny_squad,
            *("--model_name_or_path", pruned, "--output_dir", again, "--recipe", tmp_path / "refit.yaml"),
            *("--distill_teacher", tiny_model_dir, *flags),
        )
    )
    assert "eval_teacher_f1" in metrics
    former, refitted = (load_file(folder / "model.safetensors") for folder in (pruned, again))
    for name, weight in former.items():
        assert torch.equal(weight == 0, refitted[name] == 0)
        # They were fitted to the same outputs on the same data: only the pull towards what they were is another one.
        torch.testing.assert_close(weight, refitted[name], atol=0.05, rtol=0.05)


def test_one_shot_without_training_data_says_what_is_missing(tiny_model_dir, tiny_squad, tmp_path):
    arguments = squad_command(
        tiny_squad,
        *("--model_name_or_path", tiny_model_dir, "--recipe", ROOT / "recipes" / "quantize.md", "--one_shot"),
        *("--do_eval", "--output_dir", tmp_path / "out"),
    )
    del arguments[:2]  # --train_file
    with pytest.raises(UsageError, match="--one_shot .* sets its ranges, on training data: .* --train_file"):
        run_qa.main(arguments)
    assert not (tmp_path / "out").exists()


def test_two_processes_write_one_quantized_model(tiny_model_dir, tiny_squad, tmp_path):
    arguments = squad_command(
        tiny_squad,
        *("--model_name_or_path", tiny_model_dir, "--recipe", ROOT / "recipes" / "quantize.md"),
        *("--distill_teacher", "self", "--do_train", "--do_eval", "--per_device_train_batch_size", 2),
        *("--output_dir", tmp_path / "out", "--onnx_export_path", tmp_path / "onnx", "--save_strategy", "epoch"),
        *("--cache_dir", tmp_path / "cache", "--onnx_exporter", "auto"),
    )
    done = run_script([ROOT / "run_qa.py", *arguments], ROOT, processes=2)
    assert [status for status, _ in done] == [0, 0], done[0][1][-3000:]
    assert onnx.TensorProto.INT8 in integers_in(tmp_path / "onnx" / "model.onnx")
    for folder in (tmp_path / "out", *(tmp_path / "out").glob("checkpoint-*")):
        assert (folder / QUANTIZATION_FILE).exists()
        assert not [path.name for path in folder.iterdir() if "partial" in path.name or path.name.startswith(".")]


def test_damaged_ranges_are_one_message(trained, tiny_squad, tmp_path):
    folder, _ = trained
    AutoModelForQuestionAnswering.from_pretrained(folder / "out").save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "model" / name).write_bytes((folder / "out" / name).read_bytes())
    (tmp_path / "model" / QUANTIZATION_FILE).write_bytes((folder / "out" / QUANTIZATION_FILE).read_bytes()[:1000])
    with pytest.raises(QuantizationError, match="is not a file of quantization ranges"):
        run_qa.main(
            squad_command(
                tiny_squad, "--model_name_or_path", tmp_path / "model", "--do_eval", "--output_dir", tmp_path / "out"
            )
        )
