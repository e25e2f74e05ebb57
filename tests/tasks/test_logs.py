"""What a run of the script prints, and which optional packages it imports."""

import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import ROOT

RECIPE = """
modifiers:
  - !EpochRangeModifier {end_epoch: 1.0}
  - !GMPruningModifier {params: __ENCODER__, start_epoch: 0.0, end_epoch: 0.5, final_sparsity: 0.8}
  - !DistillationModifier {hardness: 0.5}
"""
ENVIRONMENT = {**os.environ, "CI": "true"}  # where Transformers passes its messages on to the root logger
OPTIONAL = ("wandb", "trackio", "tensorboard")
HEAVY = (*OPTIONAL, "matplotlib")  # matplotlib draws the report, and takes its time to import
# Runs the script, then prints the optional packages that it has imported.
WRAPPER = """
import atexit, json, runpy, sys
names = json.loads(sys.argv.pop(1))
atexit.register(lambda: print("imported", json.dumps([name for name in names if name in sys.modules])))
sys.argv[0] = "run_qa.py"
runpy.run_path("run_qa.py", run_name="__main__")
"""


def run(*arguments: object, names: tuple[str, ...] = HEAVY) -> tuple[list[str], list[str]]:
    """Run the script in a process of its own.

    Returns:
        The lines of both its outputs, and those of ``names`` that it has imported.
    """
    command = [sys.executable, "-c", WRAPPER, json.dumps(names), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stdout
    *lines, last = done.stdout.splitlines()
    return lines, json.loads(last.removeprefix("imported "))


@pytest.fixture
def four_steps(tiny_model_dir, tiny_squad, tmp_path) -> list[object]:
    """The arguments of a run of four steps."""
    return [
        *("--model_name_or_path", tiny_model_dir, "--output_dir", tmp_path / "out", "--cache_dir", tmp_path / "cache"),
        *("--train_file", tiny_squad / "train.json", "--validation_file", tiny_squad / "validation.json"),
        *"--do_train --do_eval --use_cpu --max_steps 4 --per_device_train_batch_size 4".split(),
        *"--max_seq_length 64 --doc_stride 16".split(),
    ]


def test_run_of_four_steps_fits_a_screen_and_imports_no_dashboard(four_steps):
    lines, imported = run(*four_steps)
    text = "\n".join(lines)
    assert len(lines) <= 40, text
    for wanted in (
        "***** Running training *****",
        "Total optimization steps = 4",
        "train metrics",
        "eval_f1",
        "Saved ",
    ):
        assert wanted in text
    assert not any(word in text for word in ("Model config", "loading weights", "Arguments: ", "have been ignored"))
    assert imported == []


def test_run_with_recipe_teacher_and_export_prints_each_model_once(four_steps, tiny_model_dir, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    export = ("--onnx_export_path", tmp_path / "out" / "onnx")
    lines, imported = run(*four_steps, "--recipe", recipe, "--distill_teacher", tiny_model_dir, *export)
    text = "\n".join(lines)
    assert len(lines) <= 76, text
    assert text.count("opset 18 by the dynamo exporter") == 1 and "Deprecat" not in text
    assert [sum(line.startswith(f"{name} ") for line in lines) for name in ("teacher", "student", "ONNX")] == [1, 1, 1]
    assert imported == ["matplotlib"]


def test_log_level_info_prints_everything(four_steps):
    lines, _ = run(*four_steps, "--skip_trial", "--log_level", "info")
    text = "\n".join(lines)
    for wanted in (
        "Model config BertConfig",
        "loading weights file",
        "Arguments: TrainingArguments",
        "have been ignored",
    ):
        assert wanted in text
    assert sum("Generating train split" in line for line in lines) == 1


def test_filter_of_one_run_is_gone_in_the_next_that_names_a_level():
    from transformers import TrainingArguments

    from sparsification.tasks.logs import set_up_logging

    library = logging.getLogger("transformers.configuration_utils")
    record = library.makeRecord(library.name, logging.INFO, "file", 1, "Model config", (), None)
    for level, shown in (("passive", False), ("info", True)):
        set_up_logging(TrainingArguments("unused", log_level=level, use_cpu=True, report_to="none"))
        assert bool(library.filter(record)) == shown


@pytest.mark.parametrize(("fast", "warnings"), [(True, 0), (False, 1)])
def test_bf16_that_the_processor_does_not_compute_is_warned_of(fast, warnings, monkeypatch, caplog):
    from transformers import TrainingArguments

    from sparsification.tasks import logs

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: fast)
    caplog.set_level(logging.WARNING)
    logs.set_up_logging(TrainingArguments("unused", bf16=True, use_cpu=True, report_to="none"))
    assert caplog.text.count("no instructions for bfloat16") == warnings


def test_help_imports_no_optional_package():
    lines, imported = run("--help", names=(*OPTIONAL, "datasets", "onnx", "onnxruntime"))
    assert any("--recipe" in line for line in lines)
    assert imported == []


def test_optional_packages_are_imported_inside_functions():
    for path in [ROOT / "run_qa.py", *sorted(Path(ROOT, "sparsification").rglob("*.py"))]:
        top = [line for line in path.read_text().splitlines() if line.startswith(("import ", "from "))]
        assert not [line for line in top if line.split()[1].partition(".")[0] in OPTIONAL], path
