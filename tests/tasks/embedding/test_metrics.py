"""Metrics of embeddings against counts by hand."""

import numpy as np
import pytest

from sparsification.tasks.embedding.metrics import mean_cosine, retrieval_scores


def test_mean_cosine_does_not_depend_on_lengths():
    student, teacher = np.array([[1.0, 0.0], [3.0, 4.0]]), np.array([[5.0, 0.0], [4.0, 3.0]])
    assert mean_cosine(student, teacher) == pytest.approx((1 + 24 / 25) / 2)


def test_retrieval_scores_are_those_of_the_ranks():
    texts = np.eye(12)
    queries = np.stack([texts[0] + 0.5 * texts[1], texts[2] + 2 * texts[3], np.arange(12, 0, -1)]).astype(float)
    # Ranks of the right texts: 1, 2 and 12, of which the last is beyond the tenth.
    scores = retrieval_scores(queries, texts, np.array([0, 2, 11]))
    assert scores == {"recall_at_10": pytest.approx(2 / 3), "mrr_at_10": pytest.approx((1 + 1 / 2) / 3)}
