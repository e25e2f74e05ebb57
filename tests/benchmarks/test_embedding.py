"""The study of embeddings: its data, its ranks, and its page."""

import csv
import json

import numpy as np
import pytest
from transformers import BertModel

from benchmarks import embedding
from helpers import ROOT
from helpers.data import PLACES, squad_json
from helpers.models import save_bert
from sparsification.manager import ScheduledModifierManager
from sparsification.tasks.embedding.metrics import retrieval_scores
from sparsification.tasks.embedding.modules import SentenceModules
from sparsification.tasks.predict import load_predictor


@pytest.fixture
def data(tmp_path):
    """Texts, and questions with their paragraphs, as the study writes them."""
    for split in ("train", "validation"):
        (tmp_path / f"newwiki-{split}.json").write_text(json.dumps(squad_json(PLACES[:5])))
    embedding.write_data(tmp_path, tmp_path, tmp_path / "questions.csv")
    return tmp_path


def test_texts_are_paragraphs_and_questions_have_theirs(data):
    texts, both = (
        (data / f"{name}.txt").read_text().splitlines() for name in ("paragraphs", "paragraphs_and_questions")
    )
    rows = list(csv.DictReader((data / "questions.csv").open(newline="")))
    assert len(texts) == len(set(texts)) > 1
    assert {" ".join(row["paragraph"].split()) for row in rows} == set(texts)
    assert set(both) == {*texts, *(row["question"] for row in rows)}


def test_reciprocal_ranks_have_the_mean_that_the_metric_has(data, tmp_path):
    folder = save_bert(tmp_path / "model", BertModel, initializer_range=0.3)
    SentenceModules(max_length=64).save(folder, 32)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    predictor = load_predictor(folder)
    records = predictor.read(data / "questions.csv")
    vectors = np.array([one["embedding"] for one in predictor.predict(records.inputs)])
    count = len(records.labels)
    expected = retrieval_scores(vectors[:count], vectors[count:], np.array(records.labels))["mrr_at_10"]
    assert np.mean(embedding.reciprocal_ranks(folder, data / "questions.csv")) == pytest.approx(expected, abs=1e-3)


def test_every_run_has_a_recipe_that_loads():
    for run in embedding.RUNS.values():
        if run.recipe:
            ScheduledModifierManager.from_yaml(ROOT / "recipes" / f"{run.recipe}.md", run.variables or None)
    assert set(embedding.ONE_SHOT) < set(embedding.RUNS)


def test_page_has_shares_of_the_dense_model():
    def run(ranks: list[float], **more: object) -> dict:
        scores = {f"{prefix}_mrr_at_10": float(np.mean(ranks)) for prefix in ("eval", "eval_onnx")}
        return {
            **{
                "recipe": "",
                "variables": "",
                "start": "",
                "flags": [],
                "one_shot": True,
                "texts": "paragraphs",
                "date": "2026-11-28",
                "machine": "a CPU",
            },
            **{"epochs": 0, "sparsity": [0.5, 0.5], "megabytes": 90.0, "minutes": 2.0, "cpu_minutes": 1.5},
            **{"eval_recall_at_10": 0.9, "eval_cosine": 0.97, "reciprocal_ranks": ranks},
            **scores,
            **more,
        }

    pruned = run([0.75, 0.375] * 20, recipe="r", variables="sparsity=0.5", speedup=5.88)
    results = {"dense": run([1.0, 0.5] * 20), "pruned": pruned}
    text = embedding.page(results)
    row = "| pruned | 0 | 50.0% | 56.2% | 56.2% | 75.0% | 75.0% to 75.0% | 90.0% | 0.970 | 90.0 MB | 5.9x | 2.0 | 1.5 |"
    assert row in text
    assert "| 90.0 MB |  | 2.0 | 1.5 |" in text
    assert "- pruned: `recipes/r.md`, `--recipe_args 'sparsity=0.5'`, `--one_shot`, on paragraphs; a CPU" in text
