"""Metrics of GLUE and of regression, against closed forms and the library that defines them where it is there."""

import math

import numpy as np
import pytest

from sparsification.tasks.text_classification.metrics import GLUE, f1, metrics_of, pearson, scores, spearman


def test_matthews_correlation_is_the_formula_of_the_four_counts():
    predicted, true = np.array([1, 1, 1, 0, 0, 0, 0]), np.array([1, 1, 0, 1, 0, 0, 0])
    tp, fp, fn, tn = 2, 1, 1, 3
    expected = (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    assert GLUE["cola"]["matthews_correlation"](predicted, true) == pytest.approx(expected)


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    predicted, true = np.array([1, 1, 1, 0, 0]), np.array([1, 0, 1, 1, 0])
    assert f1(predicted, true) == pytest.approx(2 / (1 / (2 / 3) + 1 / (2 / 3)))
    assert f1(np.zeros(3), np.zeros(3)) == 0.0


def test_correlations():
    values = np.array([1.0, 2.0, 3.0, 4.0])
    assert pearson(values, 3 * values - 7) == pytest.approx(1.0)
    assert pearson(values, np.ones(4)) == 0.0
    assert spearman(values, np.exp(values)) == pytest.approx(1.0)
    # Ranks with ties, by hand: 1.5, 1.5, 3 and 1, 2, 3.
    assert spearman(np.array([5, 5, 9]), np.array([1, 2, 3])) == pytest.approx(1.5 / math.sqrt(1.5 * 2))


def test_scores_of_a_classifier_and_of_a_regression():
    logits = np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]])
    assert scores(logits, np.array([0, 1, 1])) == {"accuracy": pytest.approx(2 / 3)}
    mrpc = scores(logits, np.array([0, 1, 1]), "mrpc")
    assert mrpc == {
        "accuracy": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "combined_score": pytest.approx(2 / 3),
    }
    regression = scores(np.array([[1.0], [2.0]]), np.array([0.0, 4.0]))
    assert regression == {"mse": pytest.approx((1 + 4) / 2), "pearson": pytest.approx(1.0)}
    assert list(regression) == list(metrics_of(None, regression=True))
