"""The trial before training finds what would fail at the end, and changes nothing of the run."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file

from run_qa import main
from sparsification.errors import SparsificationError
from sparsification.export.verify import ExportError
from sparsification.manager import ManagerError
from sparsification.tasks.errors import UsageError
from sparsification.tasks.question_answering import feature_sets, sparse_trainer

ALL_AT_ONCE = """
modifiers:
  - !EpochRangeModifier
    end_epoch: 2.0
  - !GMPruningModifier
    params: ['re:bert.encoder.layer.*(query|key|value|dense).weight']
    init_sparsity: 0.0
    final_sparsity: 0.8
    start_epoch: 0.0
    end_epoch: 1.0
    update_frequency: 0.25
  - !QuantizationModifier
    start_epoch: 1.0
    disable_quantization_observer_epoch: 1.5
  - !DistillationModifier
    hardness: 0.5
    start_epoch: 0.5
  - !PerLayerDistillationModifier
    gain: 0.1
    student_layer_names: ['bert.encoder.layer.0', 'bert.encoder.layer.1']
    teacher_layer_names: ['bert.encoder.layer.0', 'bert.encoder.layer.1']
    end_epoch: 0.75
"""
PRUNES = """
modifiers:
  - !GMPruningModifier
    params: ['re:bert.encoder.layer.*(query|key|value|dense).weight']
    init_sparsity: 0.0
    final_sparsity: 0.8
    end_epoch: 1.0
"""


@pytest.fixture
def run(tiny_model_dir, tiny_squad, tmp_path):
    """Run the script in a folder of that name, by a recipe, with some flags more."""

    def run(name: str, recipe: str, *flags: str) -> dict[str, float]:
        path = tmp_path / f"{name}.yaml"
        path.write_text(recipe)
        base = f"--model_name_or_path {tiny_model_dir} --dataset_name {tiny_squad} --output_dir {tmp_path / name}"
        small = "--use_cpu --max_seq_length 64 --doc_stride 16 --report_to none --per_device_train_batch_size 2"
        return main([*f"{base} {small} --recipe {path} --do_train --do_eval".split(), *flags])

    return run


@pytest.fixture
def no_features(monkeypatch):
    """Fail where the run gets as far as its features."""
    monkeypatch.setattr(feature_sets, "build_features", lambda *args: pytest.fail("got as far as the features"))


def test_run_with_a_trial_is_bit_identical_to_one_without(run, tmp_path):
    flags = "--gradient_accumulation_steps 2 --save_strategy epoch --distill_teacher self --teacher_cache off".split()
    flags += ["--onnx_export_path"]
    tried = run("tried", ALL_AT_ONCE, *flags, str(tmp_path / "tried-onnx"))
    untried = run("untried", ALL_AT_ONCE, *flags, str(tmp_path / "untried-onnx"), "--skip_trial")
    assert {name: value for name, value in tried.items() if name in ("train_loss", "eval_f1", "eval_onnx_f1")} == {
        name: untried[name] for name in ("train_loss", "eval_f1", "eval_onnx_f1")
    }
    files = {path.relative_to(tmp_path / "untried") for path in (tmp_path / "untried").rglob("*.safetensors")}
    assert len(files) == 7  # weights and, from the second epoch on, ranges; in checkpoints the manager's state
    for file in files:
        one, other = load_file(tmp_path / "tried" / file), load_file(tmp_path / "untried" / file)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), file
    for step in (5, 10):
        name = f"checkpoint-{step}/rng_state.pth"
        one, other = (torch.load(tmp_path / run / name, weights_only=False) for run in ("tried", "untried"))
        assert torch.equal(one["cpu"], other["cpu"])
    assert {path.name for path in (tmp_path / "tried").iterdir()} == {
        path.name for path in (tmp_path / "untried").iterdir()
    }


def test_time_is_told_once_and_warnings_are_not_told_twice(run, caplog):
    with caplog.at_level(logging.INFO):
        run("told", PRUNES, "--num_train_epochs", "1", "--best_model_after_epoch", "1")
    assert caplog.text.count("The trial before training went through in ") == 1
    assert caplog.text.count("--best_model_after_epoch 1.0 has no effect") == 1


@pytest.mark.usefixtures("no_features")
def test_recipe_that_does_not_fit_the_model_is_refused_before_features_are_made(run):
    with pytest.raises(ManagerError, match="no parameter matches"):
        run("misfit", PRUNES.replace("bert.encoder", "roberta.encoder"))


@pytest.mark.usefixtures("no_features")
def test_layers_that_are_distilled_later_are_compared_before_features_are_made(run):
    late = ALL_AT_ONCE.replace("hardness: 0.5", "hardness: 0.5\n    distill_output_keys: [logits]")
    with pytest.raises(ManagerError, match="has no output 'logits' to distill"):
        run("late", late, "--distill_teacher", "self")


@pytest.mark.usefixtures("no_features")
def test_export_that_would_fail_at_the_end_fails_before_features_are_made(run, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise ExportError("no such operator")

    monkeypatch.setattr("sparsification.trainer.evaluation.export_onnx", fails)
    with pytest.raises(SparsificationError, match="no such operator"):
        run("export", PRUNES, "--onnx_export_path", str(tmp_path / "onnx"))


@pytest.mark.usefixtures("no_features")
def test_what_transformers_refuses_with_a_value_error_is_one_message(run, monkeypatch):
    def refuses(self, *args, **kwargs):
        raise ValueError("this model cannot be trained so")

    monkeypatch.setattr(sparse_trainer.SparseQuestionAnsweringTrainer, "create_optimizer", refuses)
    with pytest.raises(UsageError, match="the trial before training failed, ValueError: this model cannot"):
        run("refused", PRUNES)


def test_questions_that_cannot_be_scored_are_told_before_training(tiny_model_dir, tiny_squad, tiny_squad_v2, tmp_path):
    out = tmp_path / "out"
    argv = f"--model_name_or_path {tiny_model_dir} --train_file {tiny_squad}/train.json --output_dir {out} --do_train"
    argv += (
        f" --validation_file {tiny_squad_v2}/validation.json --do_eval --use_cpu --max_seq_length 64 --doc_stride 16"
    )
    with pytest.raises(Exception, match="2 of 8 questions of the evaluation data have no answer"):
        main(argv.split())
    unlabelled = json.loads((tiny_squad / "validation.json").read_text())
    for article in unlabelled["data"]:
        for question in article["paragraphs"][0]["qas"]:
            question["answers"] = []
    (tmp_path / "unlabelled.json").write_text(json.dumps(unlabelled))
    argv = argv.replace(f"{tiny_squad_v2}/validation.json", f"{tmp_path}/unlabelled.json")
    best = " --load_best_model_at_end --eval_strategy epoch --save_strategy epoch"
    with pytest.raises(Exception, match="--metric_for_best_model f1: no question of the evaluation data has an answer"):
        main((argv + best).split())
    assert not (out / "model.safetensors").exists()
