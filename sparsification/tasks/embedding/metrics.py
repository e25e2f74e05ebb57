"""Metrics of sentence embeddings: agreement with a teacher's, and retrieval."""

import numpy as np

TOP = 10


def normalized(embeddings: np.ndarray) -> np.ndarray:
    """Scale the rows of (n, width) to length 1."""
    return embeddings / np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)


def mean_cosine(student: np.ndarray, teacher: np.ndarray) -> float:
    """Mean cosine of the angles between the rows of two (n, width) arrays, in [-1, 1]."""
    return float((normalized(student) * normalized(teacher)).sum(axis=1).mean())


def retrieval_scores(queries: np.ndarray, texts: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Score the retrieval of the right text for each query by cosine.

    Args:
        queries: embeddings, (queries, width).
        texts: embeddings, (texts, width).
        right: index of the right text of each query, (queries,).

    Returns:
        ``recall_at_10``, the share of the queries whose text is among the first ten; and ``mrr_at_10``, the mean of
        1 / rank, 0 from the eleventh on (Bajaj et al. 2016, MS MARCO, arXiv:1611.09268). Both in [0, 1].
    """
    scores = normalized(queries) @ normalized(texts).T
    own = scores[np.arange(len(right)), right]
    ranks = 1 + (scores > own[:, None]).sum(axis=1)
    found = ranks <= TOP
    return {f"recall_at_{TOP}": float(found.mean()), f"mrr_at_{TOP}": float((found / ranks).mean())}
