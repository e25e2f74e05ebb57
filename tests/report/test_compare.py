"""Comparison of runs: the table and the Pareto plots show what the reports of the runs hold."""

import dataclasses
import json
import math
import random
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from safetensors.torch import save_file

from sparsification.cli.main import main
from sparsification.report.pareto import ENGINES, draw_pareto, pareto_front, pareto_panels
from sparsification.report.results import ModelResult, RunResult, Window, load_result, save_result
from sparsification.report.unreported import MODELS, load_results
from sparsification.trainer.reporting import EXPORTED


def save(folder: Path, sparsity: float, f1: float, **changes: object) -> Path:
    """Leave the report of a run."""
    student = ModelResult(
        name="student",
        scores={"EM": f1 - 10, "F1": f1},
        sparsity=sparsity,
        latency=20.0,
        gzipped=int(9e6 - 5e6 * sparsity),
    )
    result = RunResult(
        name=folder.name,
        command="python run_qa.py",
        recipe_source="recipe.yaml",
        recipe="modifiers: []",
        metrics={"exact_match": "EM", "f1": "F1"},
        models=[
            ModelResult(name="teacher", scores={"EM": 70.0, "F1": 80.0}, sparsity=0.0, latency=22.0, gzipped=9_000_000),
            student,
            dataclasses.replace(student, name="ONNX", latency=5.0, gzipped=student.gzipped - 1),
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
    assert head.split() == ["EM", "F1", "F1", "kept", "sparsity", "gzipped", "latency"]
    assert [" ".join(row.split()) for row in rows] == [
        "prune50, student 66.00 76.00 95.0% 50.0% 6.5 MB 20.0 ms",
        "prune50, ONNX 66.00 76.00 95.0% 50.0% 6.5 MB 5.0 ms",
        "prune90, student 50.00 60.00 75.0% 90.0% 4.5 MB 20.0 ms",
        "prune90, ONNX 50.00 60.00 75.0% 90.0% 4.5 MB 5.0 ms",
    ]


def test_front_holds_what_no_other_point_beats():
    rng = random.Random(0)
    points = [(float(rng.randint(0, 9)), float(rng.randint(0, 9))) for _ in range(200)]
    for number in range(1, 200):
        some = points[:number]
        unbeaten = {
            p for p in some if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in some)
        }  # fmt: skip
        assert pareto_front(some) == sorted(unbeaten)


def test_plots_are_of_the_score_against_latency_and_size_with_the_teacher_once(runs):
    latency, size = pareto_panels([load_result(Path(run)) for run in runs])
    assert sorted((p.x, p.score, p.model) for p in latency.points) == [
        (5.0, 60.0, "prune90"),
        (5.0, 76.0, "prune50"),
        (20.0, 60.0, "prune90"),
        (20.0, 76.0, "prune50"),
        (22.0, 80.0, "dense teacher"),
    ]
    # The smallest file of each model.
    assert sorted((p.x, p.score, p.model) for p in size.points) == [
        (4.499999, 60.0, "prune90"),
        (6.499999, 76.0, "prune50"),
        (9.0, 80.0, "dense teacher"),
    ]
    assert [p.model for p in latency.points if p.is_dense] == ["dense teacher"]


def test_each_model_has_one_label_that_covers_no_other_label_and_no_point(tmp_path):
    rng = random.Random(1)
    folders = [save(tmp_path / f"a_run_of_number_{n}", 0.5 + n / 25, 60 + 15 * rng.random()) for n in range(8)]
    figure = draw_pareto(pareto_panels([load_result(folder) for folder in folders]))
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        boxes = {label.get_text(): Text.get_window_extent(label, renderer) for label in axes.texts}
        assert len(boxes) == len(axes.texts) == 9
        for name, box in boxes.items():
            assert not [other for other, its in boxes.items() if other != name and box.overlaps(its)]
            frame = axes.get_window_extent(renderer)
            assert frame.contains(*box.min) and frame.contains(*box.max)
        markers = [line for line in axes.lines if line.get_marker() != "None"]
        places = [axes.transData.transform(line.get_xydata()[0]) for line in markers]
        assert len(places) >= 9
        assert not [place for place in places for box in boxes.values() if box.contains(*place)]


def test_front_is_drawn_from_the_fastest_model_to_the_best_one(runs):
    figure = draw_pareto(pareto_panels([load_result(Path(run)) for run in runs]))
    fronts = [line.get_xydata().tolist() for axes in figure.axes for line in axes.lines if line.get_linestyle() == "--"]
    assert fronts[0][:-1] == [[5.0, 76.0], [22.0, 80.0]]
    assert fronts[1][:-1] == [[4.499999, 60.0], [6.499999, 76.0], [9.0, 80.0]]
    for axes, front in zip(figure.axes, fronts, strict=True):
        assert front[-1] == [axes.get_xlim()[1], 80.0]  # on to the edge of the plot


def test_every_model_of_a_report_has_a_marker():
    without_recipe = {name for name, _ in MODELS.values()}
    assert ENGINES.keys() == {"teacher", "student"} | {name for name, _ in EXPORTED.values()} | without_recipe


def test_picture_names_every_run(runs, tmp_path):
    assert main(["compare", *runs, "--plot", str(tmp_path / "runs.svg")]) == 0
    drawing = (tmp_path / "runs.svg").read_text()
    ElementTree.fromstring(drawing)
    for name in ("prune50", "prune90", "dense teacher"):
        assert drawing.count(f"<!-- {name} -->") == 2  # once in each plot
    assert main(["compare", *runs, "--plot", str(tmp_path / "runs.png")]) == 0
    assert (tmp_path / "runs.png").read_bytes().startswith(b"\x89PNG")


def test_page_has_both_plots_and_the_table(runs, tmp_path):
    assert main(["compare", *runs, "--plot", str(tmp_path / "runs.html")]) == 0
    html = ElementTree.fromstring((tmp_path / "runs.html").read_text().removeprefix("<!DOCTYPE html>"))
    assert [element.text for element in html.iter("figcaption")] == ["F1 against latency", "F1 against size"]
    assert len(list(html.iter("{http://www.w3.org/2000/svg}svg"))) == 2
    assert [row[0].text for row in html.iter("tr")][1:] == [
        f"{name}, {model}" for name in ("prune50", "prune90") for model in ("student", "ONNX")
    ]


def test_runs_without_a_latency_and_a_size_cannot_be_drawn(tmp_path, capsys):
    run = save(tmp_path / "bare", 0.5, 60.0, models=[ModelResult(name="student", scores={"F1": 60.0})])
    assert main(["compare", str(run), "--plot", str(tmp_path / "runs.png")]) == 1
    assert "no run has a score together with a latency or a file size" in capsys.readouterr().err


def test_runs_that_cannot_be_compared_have_a_remark(runs, tmp_path, capsys):
    other = save(tmp_path / "other", 0.9, 60.0, data={"evaluation": "7 features"}, machine="another machine")
    assert main(["compare", runs[0], str(other)]) == 0
    printed = capsys.readouterr().out
    assert "different data" in printed
    assert "different machines" in printed


def test_folder_without_a_report_is_refused_in_one_line(runs, tmp_path, capsys):
    assert main(["compare", runs[0], str(tmp_path)]) == 1
    assert (
        capsys.readouterr().err
        == f"{tmp_path}/report.json does not exist; a run with --recipe writes it when it ends\n"
    )
    (tmp_path / "report.json").write_text('{"models": [{"nose": 1}]}')
    assert main(["compare", str(tmp_path)]) == 1
    assert "not a report that this version can read" in capsys.readouterr().err
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
    assert rows["teacher, model"] == ["60.00", "81.50", "20", "37.5%", "0.0", "MB", "0.0", "MB"]
    assert rows["teacher, ONNX"] == ["81.25", "20", "37.5%", "0.3", "MB", "0.0", "MB"]
    assert "prune90, ONNX" in rows
    assert "different" not in printed


def test_teachers_own_run_is_drawn_once_with_the_latency_that_its_students_measured(runs, tmp_path):
    dense = save_dense(tmp_path / "the_teacher")
    model = load_results([Path(runs[0]), dense])[1].models[0]
    teacher = dataclasses.replace(model, name="teacher", latency=22.0)
    student = ModelResult(name="student", scores={"EM": 50.0, "F1": 60.0}, latency=9.0)
    students = [dataclasses.replace(load_result(Path(run)), models=[teacher, student]) for run in runs]
    latency, size = pareto_panels([*students, load_results([Path(runs[0]), dense])[1]])
    assert [(p.model, p.engine, p.x) for p in latency.points if p.is_dense] == [("the_teacher", "PyTorch", 22.0)]
    (small,) = [p for p in size.points if p.is_dense]  # the smaller one of its two files
    assert (small.model, small.engine, small.score) == ("the_teacher", "PyTorch", 81.5)


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
    assert "report.json does not exist; a run with --recipe writes it when it ends" in capsys.readouterr().err
