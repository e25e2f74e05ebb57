"""Do runs stand side by side as their reports have them?"""

import dataclasses
import json
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from safetensors.torch import save_file

from sparsification.cli.main import main
from sparsification.report.results import ModelResult, RunResult, Window, save_result


def save(folder: Path, sparsity: float, f1: float, **changes: object) -> Path:
    """Leave the report of a run."""
    student = ModelResult(name="student", scores={"EM": f1 - 10, "F1": f1}, sparsity=sparsity, latency=20.0)
    result = RunResult(
        name=folder.name,
        command="python run_qa.py",
        recipe_source="recipe.yaml",
        recipe="modifiers: []",
        metrics={"exact_match": "EM", "f1": "F1"},
        models=[
            ModelResult(name="teacher", scores={"EM": 70.0, "F1": 80.0}, sparsity=0.0),
            student,
            dataclasses.replace(student, name="ONNX", latency=5.0),
        ],
        tokens=384,
        machine="a machine",
        versions={},
        data={"evaluation": "100 features, sha256 00"},
        epochs=3.0,
        windows=[Window(label="GMPruning", start=0.0, end=math.inf)],
    )
    folder.mkdir()
    save_result(dataclasses.replace(result, **changes), folder)
    return folder


@pytest.fixture
def runs(tmp_path) -> list[str]:
    return [str(save(tmp_path / "prune90", 0.9, 60.0)), str(save(tmp_path / "prune50", 0.5, 76.0))]


def test_runs_stand_side_by_side_by_their_zeros(runs, capsys):
    assert main(["compare", *runs]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["EM", "F1", "F1", "kept", "zeros", "latency"]
    assert [" ".join(row.split()) for row in rows] == [
        "prune50, student 66.00 76.00 95.0% 50.0% 20.0 ms",
        "prune50, ONNX 66.00 76.00 95.0% 50.0% 5.0 ms",
        "prune90, student 50.00 60.00 75.0% 90.0% 20.0 ms",
        "prune90, ONNX 50.00 60.00 75.0% 90.0% 5.0 ms",
    ]


def test_picture_names_every_run(runs, tmp_path):
    assert main(["compare", *runs, "--plot", str(tmp_path / "runs.svg")]) == 0
    drawing = (tmp_path / "runs.svg").read_text()
    ElementTree.fromstring(drawing)
    assert all(
        f"<!-- {name}, {model} -->" in drawing for name in ("prune50", "prune90") for model in ("student", "ONNX")
    )
    assert main(["compare", *runs, "--plot", str(tmp_path / "runs.png")]) == 0
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")


def test_runs_that_do_not_compare_are_told(runs, tmp_path, capsys):
    other = save(tmp_path / "other", 0.9, 60.0, data={"evaluation": "7 features"}, machine="another machine")
    assert main(["compare", runs[0], str(other)]) == 0
    printed = capsys.readouterr().out
    assert "different data" in printed
    assert "different machines" in printed


def test_what_cannot_be_compared_is_refused_in_one_line(runs, tmp_path, capsys):
    assert main(["compare", runs[0], str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"{tmp_path}/report.json: not there; a run with --recipe writes it at its end\n"
    (tmp_path / "report.json").write_text('{"models": [{"nose": 1}]}')
    assert main(["compare", str(tmp_path)]) == 1
    assert "no report of a run" in capsys.readouterr().err
    assert main(["compare", *runs, "--plot", str(tmp_path / "runs.wrong")]) == 1
    assert "--plot" in capsys.readouterr().err


def save_dense(folder: Path, samples: int = 100) -> Path:
    """Leave the files of a run without a recipe: 3 of 8 weights in its layers are zero."""
    (folder / "onnx").mkdir(parents=True)
    results = {"eval_exact_match": 60.0, "eval_f1": 81.5, "eval_onnx_f1": 81.25, "eval_samples": samples, "epoch": 2.0}
    (folder / "all_results.json").write_text(json.dumps(results))
    (folder / "onnx" / "model.onnx").write_bytes(b"x" * 300_000)
    weights = {"layer.0.dense.weight": torch.tensor([[0.0, 1, 2, 0], [3, 0, 4, 5]]), "layer.0.norm": torch.zeros(4)}
    save_file(weights | {"head.weight": torch.zeros(2, 4)}, folder / "model.safetensors")
    return folder


def test_folder_without_a_report_has_its_scores_and_sizes_in_the_table(runs, tmp_path, capsys):
    dense = save_dense(tmp_path / "teacher")
    assert main(["compare", str(dense), *runs, "--plot", str(tmp_path / "runs.svg")]) == 0
    printed = capsys.readouterr().out
    rows = {line.partition("  ")[0]: line.split()[2:] for line in printed.splitlines()}
    assert rows["teacher, model"] == ["60.00", "81.50", "20", "37.5%", "0.0", "MB"]
    assert rows["teacher, ONNX"] == ["81.25", "20", "37.5%", "0.3", "MB"]
    assert "prune90, ONNX" in rows
    assert "different" not in printed


def test_folder_without_a_report_that_was_evaluated_on_other_data_is_told(runs, tmp_path, capsys):
    dense = save_dense(tmp_path / "teacher", samples=99)
    assert main(["compare", runs[0], str(dense)]) == 0
    assert "different data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ("{", "all_results.json or the weights cannot be read"),
        ('{"train_loss": 1.0}', "all_results.json has no EM or F1: was --do_eval given?"),
    ],
)
def test_folder_with_neither_report_nor_scores_is_refused(runs, tmp_path, capsys, results, message):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "all_results.json").write_text(results)
    assert main(["compare", runs[0], str(tmp_path / "other")]) == 1
    assert message in capsys.readouterr().err


def test_folders_of_which_none_has_a_report_are_refused(tmp_path, capsys):
    assert main(["compare", str(save_dense(tmp_path / "teacher"))]) == 1
    assert "report.json: not there; a run with --recipe writes it at its end" in capsys.readouterr().err
