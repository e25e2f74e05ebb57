"""What dashboards are given, read back from what they wrote."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

import run_qa

RECIPE = """
modifiers:
  - !EpochRangeModifier
    end_epoch: 2.0
  - !GMPruningModifier
    params: ['re:bert.encoder.*(query|key|value|dense).weight']
    init_sparsity: 0.0
    final_sparsity: 0.8
    start_epoch: 0.5
    end_epoch: 1.5
  - !DistillationModifier
    hardness: 0.5
"""
SERIES = {
    "GMPruningModifier/sparsity",
    "GMPruningModifier/target_sparsity",
    "DistillationModifier/task_loss",
    "DistillationModifier/distillation_loss",
    "DistillationModifier/total_loss",
    "learning_rate",
    "loss",
}


@pytest.fixture
def train(tiny_model_dir, tiny_squad, tmp_path):
    """Train by the recipe, reporting to the dashboard named."""

    def train(report_to: str) -> None:
        (tmp_path / "recipe.yaml").write_text(RECIPE)
        run_qa.main(
            f"--model_name_or_path {tiny_model_dir} --dataset_name {tiny_squad} --output_dir {tmp_path}/out --do_train "
            f"--do_eval --eval_strategy epoch --use_cpu --max_seq_length 64 --doc_stride 16 --logging_steps 1 "
            f"--per_device_train_batch_size 4 --recipe {tmp_path}/recipe.yaml --distill_teacher self "
            f"--report_to {report_to} --run_name the-run".split()
        )

    return train


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


def read_wandb(path: Path) -> list[dict[str, float]]:
    """The history rows of an offline run's file."""
    rows = []
    for data in read_records(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            rows.append(
                {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
            )
    return rows


def test_wandb_gets_every_series_in_one_run_with_its_zeros(train, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    train("wandb")
    (file,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")  # Trainer's run, and no second one
    rows = read_wandb(file)
    training = [row for row in rows if "train/loss" in row]
    assert len(training) == 10
    for row in training:
        assert {f"train/{name}" for name in SERIES} <= set(row)
        assert len(row) < 20
    assert training[0]["train/GMPruningModifier/sparsity"] == 0.0
    assert training[0]["train/GMPruningModifier/target_sparsity"] == 0.0
    assert training[-1]["train/GMPruningModifier/target_sparsity"] == 0.8
    steps = [row["train/global_step"] for row in rows if "train/global_step" in row]
    assert steps == sorted(steps)
    assert [row for row in rows if "eval/f1" in row]


def test_tensorboard_gets_the_same_series(train, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    train("tensorboard")
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert {f"train/{name}" for name in SERIES} <= set(events.Tags()["scalars"])
    sparsity = [event.value for event in events.Scalars("train/GMPruningModifier/target_sparsity")]
    assert sparsity[0] == 0.0
    assert sparsity[-1] == pytest.approx(0.8)
