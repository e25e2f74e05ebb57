"""The study of a classifier: its data and its page."""

import csv

import numpy as np
import pytest

from benchmarks import classifier
from helpers import ROOT
from sparsification.manager import ScheduledModifierManager


@pytest.fixture
def data(tmp_path):
    """Texts of two labels, as the data set has them."""
    for split, count in (("train", 15), ("test", 4)):
        with (tmp_path / f"{split}.csv").open("w", newline="") as file:
            rows = [(f"{split}, {label} {index}", label) for label in ("card", "loan") for index in range(count)]
            csv.writer(file).writerows([("text", "category"), *rows])
    return tmp_path


def test_ten_texts_of_each_label_are_set_aside(data, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    files = classifier.write_data(data, work)
    rows = {flag: list(csv.DictReader(file.open(newline=""))) for flag, file in files.items()}
    assert [len(rows[flag]) for flag in ("train_file", "validation_file", "test_file")] == [10, 8, 20]
    assert [row["label"] for row in rows["test_file"]] == ["card"] * 10 + ["loan"] * 10
    texts = [row["text"] for flag in ("train_file", "test_file") for row in rows[flag]]
    assert len(set(texts)) == 30 and all(text.startswith("train, ") for text in texts)


def test_each_run_starts_from_one_that_comes_before_it_and_has_a_recipe_that_loads():
    names = list(classifier.RUNS)
    for name, run in classifier.RUNS.items():
        assert not run.start or names.index(run.start) < names.index(name)
        if run.recipe:
            ScheduledModifierManager.from_yaml(ROOT / "recipes" / f"{run.recipe}.md", run.variables or None)


def test_page_has_shares_of_the_teacher_and_of_equal_labels():
    def run(right: list[int], **more: object) -> dict:
        scores = dict.fromkeys(("eval_accuracy", "eval_onnx_accuracy", "predict_accuracy"), float(np.mean(right)))
        return {
            **{"recipe": "", "variables": "", "start": "", "flags": [], "one_shot": False, "date": "2026-11-28"},
            **{"machine": "a CPU", "epochs": 5, "sparsity": [0.8, 0.8], "megabytes": 90.0, "cpu_minutes": 1.5},
            **{"agreement": 1.0, "right": right},
            **scores,
            **more,
        }

    pruned = run([1, 1, 0, 0] * 20, recipe="r", start="teacher", agreement=0.75, eval_onnx_sparse_accuracy=0.5125)
    text = classifier.page({"teacher": run([1, 1, 1, 1] * 20), "pruned": pruned})
    row = next(line for line in text.splitlines() if line.startswith("| pruned"))
    assert row.startswith("| pruned | 5 | 80.0% | 50.0% | 50.0%, sparse 51.2% | 50.0% | ")
    assert row.endswith(" | 75.0% | 50.0% | 90.0 MB | 2 |")
    assert "- pruned: `recipes/r.md`, from teacher; a CPU" in text
