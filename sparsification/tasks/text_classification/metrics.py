"""Metrics of text classification and regression: those of the tasks of GLUE, and those of Transformers' script.

Wang et al. 2018, arXiv:1804.07461. All are computed locally, without a package of metrics.
"""

from collections.abc import Callable, Mapping

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]  # of predictions (n,) and labels (n,)


def accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    """Share of equal elements of two (n,) arrays."""
    return float((predicted == true).mean())


def f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """F1 of class 1, in [0, 1]; 0.0 if it is neither predicted nor true.

    Args:
        predicted: classes, (n,).
        true: classes, (n,).
    """
    found, there = predicted == 1, true == 1
    total = int(found.sum() + there.sum())
    return float(2 * (found & there).sum() / total) if total else 0.0


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson's correlation of two (n,) arrays, in [-1, 1]; 0.0 where one of them is constant."""
    ours, theirs = (values - values.mean() for values in (predicted.astype(float), true.astype(float)))
    norm = float(np.sqrt((ours**2).sum() * (theirs**2).sum()))
    return float((ours * theirs).sum()) / norm if norm else 0.0


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Spearman's correlation: Pearson's of the ranks, of which equal values share the mean."""
    return pearson(_ranks(predicted), _ranks(true))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(sizes)
    return (ends - (sizes - 1) / 2)[group]


# For two classes Matthews' correlation is Pearson's of the class numbers.
GLUE: Mapping[str, Mapping[str, Metric]] = {
    "cola": {"matthews_correlation": pearson},
    "mnli": {"accuracy": accuracy},
    "mrpc": {"accuracy": accuracy, "f1": f1},
    "qnli": {"accuracy": accuracy},
    "qqp": {"accuracy": accuracy, "f1": f1},
    "rte": {"accuracy": accuracy},
    "sst2": {"accuracy": accuracy},
    "stsb": {"pearson": pearson, "spearmanr": spearman},
    "wnli": {"accuracy": accuracy},
}


def mean_squared_error(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean squared difference of two (n,) arrays."""
    return float(((predicted - true) ** 2).mean())


def metrics_of(task: str | None, regression: bool) -> Mapping[str, Metric]:
    """The metrics of a task of GLUE; of Transformers' script where it is None, and the correlation in regression."""
    if task is not None:
        return GLUE[task]
    return {"mse": mean_squared_error, "pearson": pearson} if regression else {"accuracy": accuracy}


def scores(logits: np.ndarray, labels: np.ndarray, task: str | None = None) -> dict[str, float]:
    """Score the logits of a data set.

    Args:
        logits: (n, classes), or (n, 1) in regression.
        labels: (n,).
        task: of GLUE, or None.

    Returns:
        The metrics of ``metrics_of``; for a task of GLUE with several also ``combined_score``, their mean.

    >>> scores(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    {'accuracy': 0.5}
    """
    regression = logits.shape[-1] == 1
    predicted = logits[:, 0] if regression else logits.argmax(axis=-1)
    found = {name: metric(predicted, labels) for name, metric in metrics_of(task, regression).items()}
    several = task is not None and len(found) > 1
    return found | ({"combined_score": sum(found.values()) / len(found)} if several else {})
