"""The accuracy study splits its data by article, and its page has a row for each run."""

import json

import numpy as np
import pytest

from benchmarks import accuracy, accuracy_curves, accuracy_report


def article(title: str, count: int) -> dict:
    """An article with one paragraph."""
    questions = [
        {"id": f"{title}{index}", "question": "Where?", "answers": [{"text": "in Oslo", "answer_start": 0}]}
        for index in range(count)
    ]
    return {"title": title, "paragraphs": [{"context": "in Oslo", "qas": questions}]}


@pytest.fixture
def data(tmp_path):
    """A file with articles of four sizes."""
    path = tmp_path / "whole.json"
    articles = [article("a", 500), article("b", 200), article("c", 150), article("d", 400)]
    path.write_text(json.dumps({"version": "1.1", "data": articles}))
    return path


def test_shortest_articles_are_set_aside_whole(data, tmp_path):
    train, aside = accuracy.set_aside(data, tmp_path)
    titles = [[part["title"] for part in json.loads(path.read_text())["data"]] for path in (train, aside)]
    assert titles == [["a", "d"], ["b", "c"]]
    assert len(list(accuracy.questions(aside))) == 350


def test_f1_of_each_question_is_that_of_its_best_answer(data, tmp_path):
    predictions = tmp_path / "predictions.json"
    known = {question["id"]: "Oslo" for question, _ in accuracy.questions(data)}
    predictions.write_text(json.dumps(known | {"a0": "in Oslo", "a1": "Lima"}))
    scores = accuracy.f1_of_questions(data, predictions)
    assert len(scores) == 1250
    assert scores[:3] == [100, 0, 67]


def run(f1: float, **more: object) -> dict:
    """Figures of a run."""
    figures = {
        **{"recipe": "prune80", "variables": "", "start": "teacher", "seed": 42, "flags": [], "one_shot": False},
        **{"date": "2026-11-28", "minutes": 2.0, "cpu_minutes": 4.0, "epochs": 3, "em": f1 - 10, "f1": f1},
        **{"aside_f1": f1, "aside_distillation_loss": 0.1, "sparsity": [0.8, 0.8], "megabytes": 90.0},
        **{"onnx": {"onnx_exact_match": f1 - 10, "onnx_f1": f1}, "f1_of_questions": [round(f1)] * 50, "machine": "m"},
    }
    return figures | more


def test_page_has_a_row_for_each_run_and_one_for_two_seeds():
    results = {
        "teacher": run(70.0, recipe="", sparsity=[0.0, 0.0], onnx={}),
        "prune80": run(63.0),
        "prune80_seed43": run(65.0, seed=43),
        "reconstruct": run(42.0, one_shot=True, epochs=0, start="prune80", cpu_minutes=None),
    }
    lines = accuracy_report.page(results).splitlines()
    rows = [line for line in lines if line.startswith("| prune80") or line.startswith("| reconstruct")]
    assert len(rows) == 2
    assert "53.0 / 63.0; 55.0 / 65.0" in rows[1] and "91.4%" in rows[1]
    assert "32.0 / 42.0" in rows[0] and "66.7%" in rows[0] and "not measured" in rows[0]


def test_each_run_starts_from_one_that_comes_before_it_and_names_a_recipe_that_exists():
    names = list(accuracy.RUNS)
    for name, each in accuracy.RUNS.items():
        assert not each.start or name == "teacher" or names.index(each.start) < names.index(name)
        assert not each.recipe or (accuracy.ROOT / "recipes" / f"{each.recipe}.md").exists()


def test_curves_are_of_the_runs_that_were_done(tmp_path):
    results = {"teacher": run(70.0), "prune80": run(63.0), "prune80_seed43": run(65.0)}
    results |= {"prune90": run(56.0, sparsity=[0.85, 0.95])}
    names = accuracy_curves.SPARSITY["minilm-6layers_prune80, three epochs"]
    points = accuracy_curves.points(results, names, "sparsity")
    assert np.array(points) == pytest.approx(np.array([(0.8, 64 / 70), (0.9, 0.8)]))
    accuracy_curves.draw(results, tmp_path / "curves.svg")
    drawn = (tmp_path / "curves.svg").read_text()
    assert "three epochs" in drawn and "oBERT" not in drawn


def test_curves_name_runs_that_there_are():
    curves = [*accuracy_curves.LEARNING.values(), *accuracy_curves.SPARSITY.values()]
    assert {name for names in curves for name in names} <= accuracy.RUNS.keys()


def test_scores_of_the_sparse_file_stand_beside_those_of_the_dense_one():
    onnx = {"onnx_exact_match": 50.04, "onnx_f1": 60.0}
    assert accuracy_report.engine_scores(onnx) == "50.0 / 60.0"
    onnx |= {"onnx_sparse_exact_match": 49.0, "onnx_sparse_f1": 59.96}
    assert accuracy_report.engine_scores(onnx) == "50.0 / 60.0, sparse 49.0 / 60.0"


def test_share_is_of_the_dense_models_that_a_run_has_seen():
    results = {
        "teacher": run(70.0, recipe="", sparsity=[0.0, 0.0], onnx={}),
        "one_epoch": run(60.0, recipe="", sparsity=[0.0, 0.0], onnx={}),
        "prune80": run(64.0, start="one_epoch", trained_anew={"teacher": run(80.0), "one_epoch": run(50.0)}),
        "reconstruct50": run(45.0, one_shot=True, start="one_epoch", trained_anew={"one_epoch": run(50.0)}),
    }
    lines = accuracy_report.page(results).splitlines()
    (trained,), (one_shot,) = (
        [line for line in lines if line.startswith(f"| {name} ")] for name in ("prune80", "reconstruct50")
    )
    assert "| 80.0% | 80.0% to 80.0% |" in trained and "| 90.0% | 90.0% to 90.0% |" in one_shot
    assert accuracy_curves.share(results, "prune80") == pytest.approx(0.8)
    assert accuracy_curves.share(results, "reconstruct50") == pytest.approx(45 / 70)
    assert sum(line.endswith("; trained anew, F1: teacher 80.0, one_epoch 50.0") for line in lines) == 1
