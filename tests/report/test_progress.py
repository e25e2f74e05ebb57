"""Progress of a run, on a terminal and in a file."""

import io
import sys

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

import run_qa
from sparsification.report.progress import LogIntervalCallback, TerminalCallback, format_log_line

RECIPE = """
modifiers:
  - !EpochRangeModifier
    end_epoch: 1.0
  - !GMPruningModifier
    params: ['re:bert.encoder.*(query|key|value|dense).weight']
    init_sparsity: 0.0
    final_sparsity: 0.75
    start_epoch: 0.0
    end_epoch: 0.8
"""
TRAINING = {"loss": 2.5, "learning_rate": 3e-5, "sparsity/encoder": 0.5, "epoch": 1.25}
EVALUATION = {"eval_f1": 67.25, "eval_runtime": 3.0, "eval_samples_per_second": 9.0, "epoch": 2.0}


def test_log_entry_is_one_short_line():
    assert format_log_line(TRAINING) == "epoch 1.25, loss 2.5, rate 3e-05, sparsity 50.0%"
    assert format_log_line(EVALUATION) == "epoch 2.00, eval_f1 67.25"
    assert (
        format_log_line({"train_runtime": 5.0, "train_loss": 2.0})
        == format_log_line({"eval_onnx_latency_ms": 3.0})
        == ""
    )


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("process", "bars"), [(True, 1), (False, 0)])
def test_terminal_gets_a_bar_on_the_first_process_alone(tmp_path, monkeypatch, capsys, process, bars):
    monkeypatch.setattr(sys, "stderr", Terminal())
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none")
    state, control = TrainerState(max_steps=4, is_world_process_zero=process, global_step=1), TrainerControl()
    callback = TerminalCallback()
    callback.on_train_begin(args, state, control)
    callback.on_step_end(args, state, control)
    callback.on_log(args, state, control, logs=TRAINING)
    callback.on_log(args, state, control, logs=EVALUATION)
    callback.on_train_end(args, state, control)
    assert ("1/4" in sys.stderr.getvalue()) == ("epoch 1.25, loss 2.5" in sys.stderr.getvalue()) == bool(bars)
    assert capsys.readouterr().out.count("epoch 2.00, eval_f1 67.25\n") == bars


@pytest.mark.parametrize(
    ("max_steps", "given", "entries"),
    [
        (429, {}, 53),  # every 8 steps
        (3, {}, 3),
        (25_000, {}, 50),
        (30_000, {}, 60),  # every 500 steps, the default
        (429, {"logging_steps": 100}, 0),
        (429, {"logging_strategy": "no"}, 0),
        (429, {"logging_strategy": "epoch"}, 0),
    ],
)
def test_default_interval_of_a_short_run_gives_fifty_log_entries(tmp_path, max_steps, given, entries):
    args = TrainingArguments(output_dir=str(tmp_path), report_to="none", **given)
    callback, count = LogIntervalCallback(), 0
    for step in range(1, max_steps + 1):
        control = TrainerControl()
        callback.on_step_end(args, TrainerState(max_steps=max_steps, global_step=step), control)
        count += control.should_log
    assert count == entries


def test_file_gets_lines_without_control_characters_and_one_table(tiny_model_dir, tiny_squad, tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run_qa.main(
        f"--model_name_or_path {tiny_model_dir} --dataset_name {tiny_squad} --output_dir {tmp_path}/out --do_train "
        f"--do_eval --eval_strategy epoch --use_cpu --max_seq_length 64 --doc_stride 16 --logging_steps 1 "
        f"--per_device_train_batch_size 4 --recipe {tmp_path}/recipe.yaml".split()
    )
    printed = capsys.readouterr()
    assert not {"\r", "\x1b", "\b"} & set(printed.out + printed.err)
    lines = printed.out.splitlines()
    assert [line.partition(",")[0] for line in lines if line.startswith("step ") and " loss " in line] == [
        f"step {number}" for number in range(1, 6)
    ]
    assert len([line for line in lines if line.startswith("student ")]) == 1
    assert sum("eval_f1" in line for line in lines if line.startswith("step 5,")) == 2  # of the epoch, and of the end
