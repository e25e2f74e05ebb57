"""Comparison of two models of one task on a data file: a gate for each file that is put into service.

``sparsification compare DENSE SPARSE --data FILE``. A metric alone hides changes that cancel out: the share of equal
verdicts says how many users see another result, and the largest changes which.
"""

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sparsification.atomic_io import atomic_write_text
from sparsification.report.profiling import one_thread
from sparsification.report.tables import plain
from sparsification.tasks.errors import DataError, UsageError
from sparsification.tasks.predict import load_predictor
from sparsification.tasks.predictor import Predictor

TIMED = 20  # records for the latency
ROUNDS = 3  # runs of each of them, of which the shortest counts
SHOWN = 100  # characters of a text


@dataclass(frozen=True)
class Change:
    """A record on which two models differ."""

    text: str
    dense: str  # the first model's prediction in a few words
    sparse: str


@dataclass(frozen=True)
class Comparison:
    """Figures of two models on the same records; pairs are of the first model and of the second."""

    records: int
    main_metric: str
    metrics: dict[str, tuple[float, float]]  # empty without labels
    verdict: str  # what ``agreement`` counts
    agreement: float  # mean over the records, in [0, 1]
    changes: list[Change]  # the largest ones first
    bytes: tuple[int, int]  # of the files with the weights
    latency: tuple[float, float]  # median milliseconds for one record on one thread
    speedup: float  # median ratio of the first model's time to the second's, over the records

    def save(self, path: Path) -> None:
        """Write the figures as JSON."""
        atomic_write_text(path, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")


def compare_models(dense: str | Path, sparse: str | Path, data: Path, changes: int = 5) -> Comparison:
    """Compare two models.

    Args:
        dense: folder or file of the model to compare with, see ``tasks/saved_model.py``.
        sparse: of the other one.
        data: records of the task, with labels for metrics: as its script takes them. Of embeddings, two columns are
            questions and the texts that answer them; a single one needs no labels.
        changes: how many to collect.

    Raises:
        PredictError: a model cannot be loaded.
        DataError: the data cannot be read.
        UsageError: the models are of different tasks.
    """
    models = [load_predictor(path, threads=1) for path in (dense, sparse)]
    first, second = models
    if type(first) is not type(second) or first.model.labels != second.model.labels:
        raise UsageError(f"{dense} and {sparse} must be models of one task with the same labels")
    if not data.is_file():
        raise DataError(f"--data {data}: no such file")
    records = first.read(data)
    with one_thread():
        found, other = (model.predict(records.inputs) for model in models)
        times = [_seconds(models, texts) for texts in records.inputs[:TIMED]]
    metrics = {}
    if records.labels is not None:
        scores = first.scores(records, found), second.scores(records, other)
        metrics = {name: (scores[0][name], scores[1][name]) for name in scores[0]}
    differences = [first.difference(one, two) for one, two in zip(found, other, strict=True)]
    order = sorted(range(len(found)), key=lambda row: -differences[row])
    largest = [row for row in order[:changes] if differences[row] > 0]
    return Comparison(
        records=len(found),
        main_metric=first.main_metric,
        metrics=metrics,
        verdict=first.verdict,
        agreement=float(first.agreement(found, other).mean()),
        changes=[
            Change(first.text_of(records.inputs[row]), first.show(found[row]), second.show(other[row]))
            for row in largest
        ],
        bytes=(first.model.file.stat().st_size, second.model.file.stat().st_size),
        latency=(1000 * statistics.median(one for one, _ in times), 1000 * statistics.median(two for _, two in times)),
        speedup=statistics.median(one / two for one, two in times),
    )


def _seconds(models: Sequence[Predictor], texts: tuple[str, ...]) -> tuple[float, float]:
    """Shortest time of each of two models for a record, in turns, so that other work disturbs both."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for model, times in zip(models, taken, strict=True):
            start = time.perf_counter()
            model.predict([texts])
            times.append(time.perf_counter() - start)
    return min(taken[0]), min(taken[1])


def report(comparison: Comparison) -> str:
    """The comparison as text."""
    rows = [
        *([name, f"{one:.4f}", f"{two:.4f}"] for name, (one, two) in comparison.metrics.items()),
        ["size in MB", *(f"{size / 1e6:.1f}" for size in comparison.bytes)],
        ["latency in ms", *(f"{milliseconds:.2f}" for milliseconds in comparison.latency)],
    ]
    lines = [
        plain(([f"{comparison.records:,} records", "first model", "second model"], rows)),
        f"equal {comparison.verdict}: {comparison.agreement:.2%}",
        f"speed of the second model: {comparison.speedup:.2f} times that of the first, one record on one thread, "
        f"median of {min(TIMED, comparison.records)} records",
    ]
    for change in comparison.changes:
        text = change.text if len(change.text) <= SHOWN else f"{change.text[: SHOWN - 3]}..."
        lines.append(f"{change.dense} -> {change.sparse}: {text}")
    return "\n".join(lines)


def failures(comparison: Comparison, min_metric: float | None, min_agreement: float | None) -> list[str]:
    """What the second model fails, one line each.

    Args:
        comparison: of ``compare_models``.
        min_metric: least value of the main metric; None: any.
        min_agreement: least share of equal verdicts, in [0, 1]; None: any.

    Raises:
        DataError: there is a minimum for the metric, and the data has no labels.
    """
    lines = []
    if min_metric is not None:
        if not comparison.metrics:
            raise DataError("--min_metric: the data has no labels, so there is no metric")
        value = comparison.metrics[comparison.main_metric][1]
        if not value >= min_metric:  # also for NaN
            lines.append(f"{comparison.main_metric} is {value:.4f}, below --min_metric {min_metric:g}")
    if min_agreement is not None and not comparison.agreement >= min_agreement:
        lines.append(
            f"the share of equal {comparison.verdict} is {comparison.agreement:.4f}, below --min_agreement "
            f"{min_agreement:g}"
        )
    return lines
