"""Exact match and F1 of SQuAD, with and without unanswerable questions."""

import random
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsification.tasks.question_answering.data import DataError
from sparsification.tasks.question_answering.metrics import f1_score, normalize_answer, squad_metrics, squad_v2_metrics


def prediction(name: str, text: str, no_answer: float = 0.0) -> dict:
    return {"id": name, "prediction_text": text, "no_answer_probability": no_answer}


def reference(name: str, *truths: str) -> dict:
    return {"id": name, "answers": {"text": list(truths), "answer_start": [0] * len(truths)}}


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  U.S.A., an ally", "usa ally"),
        ("a-an-the", "aanthe"),
        ("", ""),
        ("the", ""),
        ("Theatre «ä»\n", "theatre «ä»"),
    ],
)
def test_normalize_answer(text, normal):
    assert normalize_answer(text) == normal


def test_squad_metrics_by_hand():
    predictions = [prediction("1", "The red Car!"), prediction("2", "blue sea"), prediction("3", "moon")]
    references = [
        reference("1", "green", "red car"),  # the same once normalized: 1 and 1
        reference("2", "the deep blue sea"),  # 2 of 2 words right, 2 of 3 found: F1 0.8
        reference("3", "sun"),
        reference("4", "unasked"),
    ]
    assert squad_metrics(predictions, references) == pytest.approx({"exact_match": 25.0, "f1": 100 * 1.8 / 4})


def test_f1_counts_repeated_words_once_each():
    assert f1_score("x x y", "x z") == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))


def test_squad_metrics_refuses_questions_without_answers():
    with pytest.raises(DataError, match=r"1 of 2 questions have no answer, 'b'.*--version_2_with_negative"):
        squad_metrics([prediction("a", "x")], [reference("a", "x"), reference("b")])
    with pytest.raises(DataError, match="no questions"):
        squad_metrics([], [])
    with pytest.raises(DataError, match="no prediction"):
        squad_v2_metrics([], [reference("a", "x")])


def test_squad_v2_metrics_by_hand():
    predictions = [prediction("1", "red car"), prediction("2", ""), prediction("3", "x"), prediction("4", "")]
    references = [reference("1", "a car"), reference("2", "sea"), reference("3"), reference("4")]
    f1 = 100 * 2 * 0.5 / 1.5
    assert squad_v2_metrics(predictions, references) == pytest.approx(
        {
            "exact": 25.0,
            "f1": (f1 + 100) / 4,
            "total": 4,
            "HasAns_exact": 0.0,
            "HasAns_f1": f1 / 2,
            "HasAns_total": 2,
            "NoAns_exact": 50.0,
            "NoAns_f1": 50.0,
            "NoAns_total": 2,
            # Answering nothing at all gets questions 3 and 4 right; the first answer adds its F1.
            "best_exact": 50.0,
            "best_exact_thresh": 0.0,
            "best_f1": (f1 + 200) / 4,
            "best_f1_thresh": 0.0,
        }
    )


def test_squad_v2_metrics_names_only_groups_that_exist():
    metrics = squad_v2_metrics([prediction("1", "x")], [reference("1", "x")])
    assert set(metrics) == {
        *("exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total"),
        *("best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"),
    }
    metrics = squad_v2_metrics([prediction("1", "x")], [reference("1")])
    assert "HasAns_exact" not in metrics
    assert metrics["NoAns_exact"] == 0.0


def plain_words(text: str) -> list[str]:
    kept = [character for character in text.lower() if character not in set(string.punctuation)]
    return [word for word in "".join(kept).split() if word not in ("a", "an", "the")]


texts = st.lists(st.sampled_from(["the", "red", "Red", "car.", "car", "a", "sea", "(sea)"]), max_size=4).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(texts, st.lists(texts, max_size=3), st.booleans()), min_size=1, max_size=8), st.randoms())
def test_squad_v2_metrics_follow_the_plain_rule(rows, shuffler: random.Random):
    warnings = [index / len(rows) for index in range(len(rows))]
    shuffler.shuffle(warnings)
    predictions = [prediction(str(i), row[0], warnings[i]) for i, row in enumerate(rows)]
    references = [reference(str(i), *row[1]) for i, row in enumerate(rows)]

    def exact(i: int, text: str) -> float:
        truths = [plain_words(truth) for truth in rows[i][1] if plain_words(truth)] or [[]]
        return float(plain_words(text) in truths)

    metrics = squad_v2_metrics(predictions, references)
    assert metrics["exact"] == pytest.approx(100 * np.mean([exact(i, row[0]) for i, row in enumerate(rows)]))
    # The best threshold by trying each: what is doubted more than it becomes no answer.
    reached = [
        np.mean(
            [
                (exact(i, row[0]) if row[1] else float(not row[0])) if warnings[i] <= threshold else float(not row[1])
                for i, row in enumerate(rows)
            ]
        )
        for threshold in [-1.0, *sorted(warnings)]
    ]
    assert metrics["best_exact"] == pytest.approx(100 * max(reached))
    assert metrics["best_f1"] >= metrics["best_exact"] - 1e-9
