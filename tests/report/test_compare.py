"""Do runs stand side by side as their reports have them?"""

import dataclasses
import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

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
