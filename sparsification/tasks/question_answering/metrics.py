"""EM and F1 of answers, as in SQuAD's evaluation, computed locally.

Rajpurkar et al. 2016, arXiv:1606.05250; with unanswerable questions 2018, arXiv:1806.03822.
"""

import collections
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sparsification.tasks.errors import DataError


def normalize_answer(text: str) -> str:
    """Lower the case and remove punctuation, articles and extra spaces, as SQuAD's evaluation does."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_score(prediction: str, truth: str) -> float:
    """1.0 if the normalized texts are equal, otherwise 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(truth))


def f1_score(prediction: str, truth: str) -> float:
    """F1 of the words that prediction and truth share; 0.0 if they share none."""
    predicted, true = normalize_answer(prediction).split(), normalize_answer(truth).split()
    shared = sum((collections.Counter(predicted) & collections.Counter(true)).values())
    return 2 * shared / (len(predicted) + len(true)) if shared else 0.0


def squad_metrics(
    predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Score answers as SQuAD v1.1: the best match among a question's true answers, averaged over the questions.

    Args:
        predictions: records ``{"id", "prediction_text"}``.
        references: records ``{"id", "answers": {"text": [...]}}``; one without a prediction scores 0.

    Returns:
        ``exact_match`` and ``f1``, in percent.

    Raises:
        DataError: a question has no true answer, or there is no question.
    """
    predicted = {record["id"]: record["prediction_text"] for record in predictions}
    if not references:
        raise DataError("no questions to score")
    unanswerable = [record["id"] for record in references if not record["answers"]["text"]]
    if unanswerable:
        raise DataError(
            f"{len(unanswerable)} of {len(references)} questions have no answer, '{unanswerable[0]}' is the "
            "first: with --version_2_with_negative they count as questions without an answer"
        )

    def mean(score: Callable[[str, str], float]) -> float:
        best = [
            max(score(predicted[record["id"]], truth) for truth in record["answers"]["text"])
            for record in references
            if record["id"] in predicted
        ]
        return 100.0 * sum(best) / len(references)

    return {"exact_match": mean(exact_score), "f1": mean(f1_score)}


def squad_v2_metrics(
    predictions: Sequence[Mapping[str, Any]],
    references: Sequence[Mapping[str, Any]],
    no_answer_threshold: float = 1.0,
) -> dict[str, float]:
    """Score answers as SQuAD 2.0, in which "" is the right answer to a question without one.

    Args:
        predictions: records ``{"id", "prediction_text", "no_answer_probability"}``.
        references: records ``{"id", "answers": {"text": [...]}}``; one without a prediction is left out.
        no_answer_threshold: a prediction with a higher no-answer probability counts as "".

    Returns:
        ``exact``, ``f1`` and ``total``; the same with the prefixes ``HasAns_`` and ``NoAns_``, if there are such
        questions; ``best_exact``, ``best_f1`` and their thresholds ``best_exact_thresh``, ``best_f1_thresh``. Scores
        are in percent.

    Raises:
        DataError: there is no question, or none has a prediction.
    """
    predicted = {record["id"]: record["prediction_text"] for record in predictions}
    no_answer = {record["id"]: record["no_answer_probability"] for record in predictions}
    has_answer = {record["id"]: bool(record["answers"]["text"]) for record in references}
    scores: dict[str, dict[str, float]] = {"exact": {}, "f1": {}}
    for record in references:
        if record["id"] not in predicted:
            continue
        # An answer that is empty after normalization is not an answer.
        truths = [truth for truth in record["answers"]["text"] if normalize_answer(truth)] or [""]
        prediction = predicted[record["id"]]
        scores["exact"][record["id"]] = max(exact_score(prediction, truth) for truth in truths)
        scores["f1"][record["id"]] = max(_f1_or_both_empty(prediction, truth) for truth in truths)

    if not scores["exact"]:
        raise DataError(f"no prediction for any of the {len(references)} questions")
    metrics: dict[str, float] = {}
    for group, wanted in (("", (True, False)), ("HasAns_", (True,)), ("NoAns_", (False,))):
        names = [name for name in scores["exact"] if has_answer[name] in wanted]
        if not names:
            continue
        for key, raw in scores.items():
            total = sum(
                raw[name] if no_answer[name] <= no_answer_threshold else float(not has_answer[name]) for name in names
            )
            metrics[group + key] = 100.0 * total / len(names)
        metrics[group + "total"] = len(names)
    for key, raw in scores.items():
        metrics[f"best_{key}"], metrics[f"best_{key}_thresh"] = _best_threshold(raw, predicted, no_answer, has_answer)
    return metrics


def _f1_or_both_empty(prediction: str, truth: str) -> float:
    if not normalize_answer(prediction) or not normalize_answer(truth):
        return exact_score(prediction, truth)
    return f1_score(prediction, truth)


def _best_threshold(
    raw: Mapping[str, float],
    predicted: Mapping[str, str],
    no_answer: Mapping[str, float],
    has_answer: Mapping[str, bool],
) -> tuple[float, float]:
    """Find the no-answer threshold with the best score, in ascending order of the no-answer probability."""
    current = best = float(sum(not answerable for answerable in has_answer.values()))
    threshold = 0.0
    for name in sorted(no_answer, key=lambda name: no_answer[name]):
        if name not in raw:
            continue
        current += raw[name] if has_answer[name] else -float(bool(predicted[name]))
        if current > best:
            best, threshold = current, no_answer[name]
    return 100.0 * best / len(raw), threshold
