"""Series, results and files of a run on dashboards, read back from the files that the dashboards wrote."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import wandb
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

import run_qa
from sparsification.report.dashboards import split_logs

RECIPE = """
sparsity: 0.8
modifiers:
  - !EpochRangeModifier
    end_epoch: 2.0
  - !GMPruningModifier
    params: ['re:bert.encoder.*(query|key|value|dense).weight']
    init_sparsity: 0.0
    final_sparsity: eval(sparsity)
    start_epoch: 0.5
    end_epoch: 1.5
    update_frequency: 0.2
  - !DistillationModifier
    hardness: 0.5
  - !LearningRateFunctionModifier
    lr_func: linear
    init_lr: 0.001
    final_lr: 0.0
    start_epoch: 0.0
    end_epoch: 1.8
  - !QuantizationModifier
    submodules: [bert.encoder]
    start_epoch: 1.5
    disable_quantization_observer_epoch: 1.6
"""
SERIES = {
    "sparsity/encoder",
    "sparsity/layer.0",
    "sparsity/layer.1",
    "GMPruningModifier/sparsity",
    "GMPruningModifier/target_sparsity",
    "GMPruningModifier/mask_changes",
    "GMPruningModifier/progress",
    "DistillationModifier/task_loss",
    "DistillationModifier/distillation_loss",
    "DistillationModifier/total_loss",
    "DistillationModifier/teacher_agreement",
    "DistillationModifier/progress",
    "LearningRateFunctionModifier/ParamGroup0",
    "LearningRateFunctionModifier/progress",
    "QuantizationModifier/phase",
    "QuantizationModifier/num_fake_quantize_global",
    "QuantizationModifier/qat_observers_disabled",
    "QuantizationModifier/progress",
    "EpochRangeModifier/progress",
    "learning_rate",
    "loss",
    "grad_norm",
    "epoch",
}


def train(model: Path, data: Path, folder: Path, report_to: str) -> None:
    """Train by the recipe, reporting to the dashboard named."""
    (folder / "recipe.yaml").write_text(RECIPE)
    run_qa.main(
        f"--model_name_or_path {model} --dataset_name {data} --output_dir {folder}/out --do_train --do_eval "
        f"--eval_strategy epoch --use_cpu --max_seq_length 64 --doc_stride 16 --logging_steps 1 "
        f"--per_device_train_batch_size 4 --recipe {folder}/recipe.yaml --distill_teacher self "
        f"--report_to {report_to} --run_name the-run --onnx_export_path {folder}/out/onnx "
        "--onnx_exporter torchscript".split()
    )


def read_records(data: bytes) -> Iterator[bytes]:
    """The records of wandb's offline file: LevelDB's log format, after a header of seven bytes.

    Blocks of 32 KiB hold fragments: checksum (4 bytes), length (2), type (1; whole 1, first 2, middle 3, last 4), data.
    """
    block, position, record = 32768, 7, b""
    while position + 7 <= len(data):
        if block - position % block < 7:  # no header fits: the rest of the block is empty
            position += block - position % block
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def read_wandb(path: Path) -> dict[str, list]:
    """The records of an offline run's file, by type."""
    records: dict[str, list] = {"history": [], "config": [], "summary": [], "artifact": [], "run": [], "metric": []}
    for data in read_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        if kind in records:
            records[kind].append(getattr(record, kind))
    return records


def values(items: Iterable) -> dict[str, object]:
    """What wandb has written as JSON, by key."""
    return {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in items}


@pytest.fixture(scope="module")
def wandb_run(tiny_model_dir, tiny_squad, tmp_path_factory) -> tuple[Path, dict[str, list]]:
    """The output folder of a run, and what the run has given to Weights & Biases."""
    folder = tmp_path_factory.mktemp("wandb")
    with pytest.MonkeyPatch.context() as patch:
        settings = {"MODE": "offline", "DIR": str(folder), "PROJECT": "the-project", "SILENT": "true"}
        for name, value in settings.items():
            patch.setenv(f"WANDB_{name}", value)
        train(tiny_model_dir, tiny_squad, folder, "wandb")
        wandb.finish()
        wandb.teardown()  # ends the process that writes: the file is whole
    (file,) = (folder / "wandb").glob("offline-run-*/*.wandb")  # Trainer's run, and no second one
    return folder / "out", read_wandb(file)


def test_wandb_gets_every_series_in_one_run_with_its_zeros(wandb_run):
    _, records = wandb_run
    assert {(run.project, run.display_name) for run in records["run"]} == {("the-project", "the-run")}
    rows = [values(row.item) for row in records["history"]]
    training = [row for row in rows if "train/loss" in row]
    assert len(training) == 10

    def series(name: str) -> list[float]:
        return [row[f"train/{name}"] for row in training]

    for row in training:
        assert {name.removeprefix("train/") for name in row if name[0] != "_"} == SERIES | {"global_step"}
    zeros, goals, changes = (
        series(name)
        for name in ("sparsity/encoder", "GMPruningModifier/target_sparsity", "GMPruningModifier/mask_changes")
    )
    assert zeros[0] == goals[0] == changes[0] == 0.0
    assert goals[-1] == 0.8
    assert zeros[-1] == pytest.approx(0.8, abs=1e-3)
    assert series("GMPruningModifier/sparsity") == zeros
    assert all(sum(changes[: step + 1]) >= share - 1e-9 for step, share in enumerate(zeros))
    assert series("QuantizationModifier/phase") == [0.0] * 8 + [1.0, 2.0]
    assert series("EpochRangeModifier/progress") == pytest.approx([step / 10 for step in range(10)])
    assert series("GMPruningModifier/progress") == pytest.approx([0, 0, 0, 0.1, 0.3, 0.5, 0.7, 0.9, 1, 1])
    assert series("learning_rate")[-1] == 0.0
    assert all(0 <= share <= 1 for share in series("DistillationModifier/teacher_agreement"))
    steps = [row["train/global_step"] for row in rows if "train/global_step" in row]
    assert steps == sorted(steps)
    evaluations = [row for row in rows if "eval/f1" in row]
    assert len(evaluations) == 3  # after each epoch, and at the end
    assert evaluations[-1]["eval/sparsity"] == zeros[-1]


def test_wandb_gets_results_in_the_summary_and_not_as_series(wandb_run):
    _, records = wandb_run
    series = {name for row in records["history"] for name in values(row.item) if name.startswith("eval/")}
    speed = {"eval/runtime", "eval/samples_per_second", "eval/steps_per_second"}
    assert series == {"eval/exact_match", "eval/f1", "eval/sparsity"} | speed
    summary = {name for record in records["summary"] for name in values(record.update)}
    assert {"eval/teacher_f1", "eval/onnx_f1", "eval/latency_ms", "eval/onnx_latency_ms", "eval/parameters"} <= summary
    hidden = {metric.name for metric in records["metric"] if metric.options.hidden}
    assert speed <= hidden and not {"eval/f1", "eval/sparsity"} & hidden


def test_only_results_that_a_run_has_once_leave_the_series():
    entry = {"eval_f1": 80.0, "eval_sparsity": 0.5, "eval_runtime": 2.0, "epoch": 1.0}
    assert split_logs(entry) == (entry, {})
    entry = {"eval_onnx_sparse_f1": 80.0, "eval_teacher_f1": 81.0, "eval_latency_ms": 2.0, "epoch": 1.0}
    assert split_logs(entry) == ({}, {"eval/onnx_sparse_f1": 80.0, "eval/teacher_f1": 81.0, "eval/latency_ms": 2.0})
    entry = {"loss": 0.5, "sparsity/encoder": 0.0, "epoch": 1.0}
    assert split_logs(entry) == (entry, {})
    assert split_logs({"eval_mixed": 1.0, "eval_throughput": 2.0}) == ({"eval_mixed": 1.0}, {"eval/throughput": 2.0})


def test_wandb_gets_recipe_files_and_final_figures(wandb_run):
    out, records = wandb_run
    config, summary = {}, {}
    for record in records["config"]:
        config |= values(record.update)
    for record in records["summary"]:
        summary |= values(record.update)
    assert config["recipe"] == (out / "recipe.yaml").read_text()
    assert config["recipe_variables"] == {"sparsity": 0.8}
    results = json.loads((out / "all_results.json").read_text())
    for name in ("exact_match", "f1", "onnx_exact_match", "onnx_f1", "sparsity"):
        assert summary[f"eval/{name}"] == results[f"eval_{name}"]
    assert summary["eval/onnx_megabytes"] == (out / "onnx/model.onnx").stat().st_size / 1e6
    assert summary["eval/onnx_gzipped_megabytes"] < summary["eval/onnx_megabytes"]
    assert summary["eval/onnx_latency_ms"] > 0
    files = {record.type: [entry.path for entry in record.manifest.contents] for record in records["artifact"]}
    assert files == {"recipe": ["recipe.yaml"], "onnx": ["model.onnx"]}


def test_tensorboard_gets_the_same_series_and_the_recipe(tiny_model_dir, tiny_squad, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    train(tiny_model_dir, tiny_squad, tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert {f"train/{name}" for name in SERIES} <= set(events.Tags()["scalars"])
    sparsity = [event.value for event in events.Scalars("train/GMPruningModifier/target_sparsity")]
    assert sparsity[0] == 0.0
    assert sparsity[-1] == pytest.approx(0.8)
    (text,) = events.Tensors("recipe/text_summary")
    assert (tmp_path / "out/recipe.yaml").read_text() in text.tensor_proto.string_val[0].decode()
