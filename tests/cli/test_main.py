"""Exit codes and error lines of python -m sparsification check."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT
from helpers.checking import PRUNING, RUN, SOUND, write
from sparsification.check.report import CheckError, check
from sparsification.cli.main import main


@pytest.mark.parametrize(
    ("modifiers", "options", "code"),
    [
        (SOUND, [], 0),
        (SOUND, ["--strict"], 0),
        (PRUNING, [], 0),
        (PRUNING, ["--strict"], 2),
        ("  - !EpochRangeModifer {}\n  - !GMPruningModifier {final: 1}\n", [], 1),
        (SOUND, ["--recipe_args", "nothing=1"], 1),
        (SOUND, ["--model", "no/such/model/here"], 1),
    ],
)
def test_exit_code_is_that_of_success_warnings_or_error(modifiers, options, code, tmp_path, capsys):
    assert main(["check", write(tmp_path, modifiers), *options]) == code
    out, err = capsys.readouterr()
    assert bool(err) == (code == 1)
    assert bool(out) == (code != 1)


def test_all_errors_are_reported_one_line_each(tmp_path, capsys):
    path = write(tmp_path, "  - !EpochRangeModifer {}\n  - !GMPruningModifier {final: 1}\n")
    assert main(["check", path]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"{path}, line {number}: ") for number, line in zip((2, 3), lines, strict=True)] == [
        True
    ] * 2


def test_pattern_without_a_match_is_the_managers_error(tmp_path, capsys, model_dir):
    path = write(tmp_path, RUN + PRUNING.replace("query|key", "qeury"))
    assert main(["check", path, "--model", model_dir]) == 1
    assert r"no parameter matches 're:.*(qeury)\.weight'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("weights", "vocab_size", "reason"),
    [
        (True, 10**12, "config.json does not fit the weights: bert.embeddings.word_embeddings.weight must have shape"),
        (True, 10**5, "config.json does not fit the weights: bert.embeddings.word_embeddings.weight must have shape"),
        (False, 10**12, "the model is too large ("),
    ],
)
def test_configuration_that_does_not_fit_is_a_one_line_error(weights, vocab_size, reason, model_dir, tmp_path, capsys):
    for file in Path(model_dir).iterdir():
        if weights or file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": vocab_size}))
    assert main(["check", write(tmp_path, RUN), "--model", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--model {tmp_path}: {reason}")


@pytest.mark.parametrize("options", [["--batch_size", "4"], ["--batch_size", "0", "--num_examples", "8"]])
def test_invalid_command_line_exits_with_2(options, tmp_path):
    with pytest.raises(SystemExit) as caught:
        main(["check", write(tmp_path, SOUND), *options])
    assert caught.value.code == 2


def test_command_runs_in_a_process_of_its_own_and_imports_no_model(tmp_path):
    path = write(tmp_path, SOUND)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sparsification", "check", path, "--strict"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stdout.startswith(path)
    assert "matplotlib.figure" not in done.stderr
    assert "sparsification.check.estimate" not in done.stderr
    assert "transformers" not in done.stderr


def test_plot_is_a_png(tmp_path):
    path = tmp_path / "recipe.png"
    assert main(["check", write(tmp_path, SOUND), "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_plot_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(CheckError, match="--plot"):
        check(write(tmp_path, SOUND), plot=tmp_path / "nowhere" / "recipe.png")


@pytest.mark.parametrize("command", ["", "check", "predict", "compare", "convert", "plan"])
def test_every_command_says_its_flags(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert f"sparsification {command}".strip() in capsys.readouterr().out
