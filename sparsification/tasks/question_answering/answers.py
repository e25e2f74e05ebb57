"""Answers from logits: the best-scored span over all features of a question.

Each feature has a start logit and an end logit for each of its tokens. The best pair over all features of one question,
mapped to characters of the context, is the answer.
"""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset

from sparsification.tasks.question_answering.features import ARROW_TYPES
from sparsification.tasks.question_answering.nbest_json import _NBestText, write_json

logger = logging.getLogger(__name__)


CHUNK = 256  # features that are processed at once


def postprocess_qa_predictions(
    examples: Dataset | Sequence[Mapping[str, Any]],
    features: Dataset | Sequence[Mapping[str, Any]],
    predictions: tuple[np.ndarray, np.ndarray],
    version_2_with_negative: bool = False,
    n_best_size: int = 20,
    max_answer_length: int = 30,
    null_score_diff_threshold: float = 0.0,
    output_dir: str | None = None,
    prefix: str | None = None,
    log_level: int = logging.WARNING,
) -> dict[str, str]:
    """Find each question's answer: the best-scored span over all of its features.

    The candidates of a feature are the pairs of its ``n_best_size`` best starts and ends that are in the context, in
    order, and at most ``max_answer_length`` tokens long. The score of a pair is the sum of its two logits. The
    ``n_best_size`` best pairs of all features are kept; of equal ones, the earlier. With ``version_2_with_negative``,
    "no answer" is a candidate, too: its score is that of the CLS token in the feature where that is lowest.

    Args:
        examples: rows with ``id`` and ``context``.
        features: rows with ``example_id`` and ``offset_mapping`` (None outside the context), in the logits' order.
        predictions: start logits and end logits, [features, tokens] each; columns behind a feature's length are
            padding and are ignored.
        version_2_with_negative: whether a question may have no answer.
        n_best_size: number of candidates to keep.
        max_answer_length: longest answer, in tokens.
        null_score_diff_threshold: "no answer" is chosen if its score exceeds the best answer's by more than this.
        output_dir: folder for predictions.json, nbest_predictions.json and, with ``version_2_with_negative``,
            null_odds.json; None writes nothing.
        prefix: prefix of these names, followed by an underscore.
        log_level: level of this module's messages.

    Returns:
        id -> answer text, in the order of the examples; "" means no answer.

    Raises:
        ValueError: the predictions are not two arrays with one row for each feature.
    """
    if len(predictions) != 2:
        raise ValueError(f"expected start logits and end logits, got {len(predictions)} arrays")
    if len(predictions[0]) != len(features):
        raise ValueError(f"got the logits of {len(predictions[0])} features for {len(features)} features")
    logger.setLevel(log_level)
    logger.info(f"Finding the answers of {len(examples)} questions in {len(features)} features")

    ids = list(_column(examples, "id"))
    spans, nulls = all_spans(ids, features, predictions, n_best_size, max_answer_length)
    if version_2_with_negative:
        spans = Spans.concatenate([spans, nulls])  # last, so that an answer comes first among equal scores
    # Stable: by question, then by score, then in the order of the features.
    spans = spans.take(np.lexsort((-spans.scores, spans.questions)))
    bounds = np.searchsorted(spans.questions, np.arange(len(ids) + 1)).tolist()
    null_of = dict(zip(nulls.questions.tolist(), zip(nulls.start_logits, nulls.end_logits, strict=True), strict=True))

    answers: dict[str, str] = {}
    null_odds: dict[str, float] = {}
    written = _NBestText() if output_dir is not None else None
    for number, (example_id, context) in enumerate(zip(ids, _column(examples, "context"), strict=True)):
        best = slice(bounds[number], min(bounds[number + 1], bounds[number] + n_best_size))
        null = null_of.get(number, (0.0, 0.0)) if version_2_with_negative else None
        texts, starts, ends, scores = _named(spans, best, context, null)
        answers[example_id] = texts[0]
        if null is not None:
            first = next(place for place, text in enumerate(texts) if text)
            null_odds[example_id] = float((null[0] + null[1]) - starts[first] - ends[first])
            answers[example_id] = "" if null_odds[example_id] > null_score_diff_threshold else texts[first]
        if written is not None:
            exponentials = np.exp(scores - scores.max())
            written.add(example_id, texts, exponentials / exponentials.sum(), starts, ends)

    if output_dir is not None:
        os.makedirs(output_dir, exist_ok=True)
        contents: dict[str, Mapping[str, Any] | _NBestText | None] = {
            "predictions.json": answers,
            "nbest_predictions.json": written,
        }
        if version_2_with_negative:
            contents["null_odds.json"] = null_odds
        for name, content in contents.items():
            path = os.path.join(output_dir, name if prefix is None else f"{prefix}_{name}")
            logger.debug(f"Writing {path}")
            write_json(path, content)
    return answers


def _column(rows: Dataset | Sequence[Mapping[str, Any]], name: str) -> Iterator[Any]:
    """Yield one column; of a data set in batches of rows, because contexts are large."""
    if isinstance(rows, Dataset):
        for batch in rows.select_columns(name).with_format("arrow").iter(CHUNK):
            yield from batch[name].to_pylist()
    else:
        yield from (row[name] for row in rows)


@dataclass
class Spans:
    """Candidates, one row each: index of the question, first and last character in its context, and logits."""

    questions: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    start_logits: np.ndarray
    end_logits: np.ndarray

    @classmethod
    def concatenate(cls, parts: Sequence["Spans"]) -> "Spans":
        return cls(*(np.concatenate(columns) for columns in zip(*(vars(part).values() for part in parts), strict=True)))

    def take(self, rows: np.ndarray | slice) -> "Spans":
        return Spans(*(column[rows] for column in vars(self).values()))

    @property
    def scores(self) -> np.ndarray:
        return self.start_logits + self.end_logits


def all_spans(
    ids: list[str],
    features: Dataset | Sequence[Mapping[str, Any]],
    predictions: tuple[np.ndarray, np.ndarray],
    n_best_size: int,
    max_answer_length: int,
) -> tuple[Spans, Spans]:
    """Find the best spans of all features, in the features' order, and the lowest no-answer score of each question."""
    number_of = {example_id: number for number, example_id in enumerate(ids)}
    no_logits = np.zeros(0, np.float32)
    nothing = np.zeros(0, np.int32)
    spans = nulls = [Spans(nothing, nothing, nothing, no_logits, no_logits)]
    if len(features):
        spans, nulls = [], []
    if isinstance(features, Dataset):
        names = [name for name in ARROW_TYPES if name in features.column_names]
        features = features.select_columns(names).with_format("arrow")
    for first in range(0, len(features), CHUNK):
        rows = slice(first, first + CHUNK)
        table = features[rows] if isinstance(features, Dataset) else _feature_table(features[rows])
        owners = np.array([number_of.get(name, -1) for name in table["example_id"].to_pylist()], np.int32)
        cls = table["cls_index"].to_numpy() if "cls_index" in table.column_names else np.zeros(len(owners), np.int64)
        starts, ends = (np.asarray(part[rows]) for part in predictions)
        at_cls = [part[np.arange(len(cls)), cls] for part in (starts, ends)]
        nulls.append(Spans(owners, np.zeros_like(owners), np.zeros_like(owners), *at_cls))
        # The column's type was inferred; a data set without any context token has another one.
        offsets = table["offset_mapping"].combine_chunks().cast(ARROW_TYPES["offset_mapping"])
        spans.append(_feature_spans(owners, offsets, starts, ends, n_best_size, max_answer_length))
    lowest = Spans.concatenate(nulls)
    lowest = lowest.take(np.lexsort((lowest.scores, lowest.questions)))
    return Spans.concatenate(spans), lowest.take(np.unique(lowest.questions, return_index=True)[1])


def _feature_table(features: Sequence[Mapping[str, Any]]) -> pa.Table:
    columns = {name: [row[name] for row in features] for name in ARROW_TYPES if name in features[0]}
    return pa.table({name: pa.array(column, ARROW_TYPES[name]) for name, column in columns.items()})


def _feature_spans(
    owners: np.ndarray,
    offset_mapping: pa.ListArray,
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    n_best_size: int,
    max_answer_length: int,
) -> Spans:
    """Find each feature's best spans, best first; equal ones by the rank of their start, then of their end."""
    lengths = np.minimum(offset_mapping.value_lengths().to_numpy(), start_logits.shape[1])
    shape = (len(owners), min(n_best_size, lengths.max()) ** 2)
    found = Spans(
        *(np.full((len(owners), min(n_best_size, shape[1])), -1, np.int32) for _ in range(3)),
        *(np.zeros((len(owners), min(n_best_size, shape[1])), start_logits.dtype) for _ in range(2)),
    )
    for length in np.unique(lengths):  # the padding of a feature is not ranked
        rows = np.flatnonzero(lengths == length)
        # np.argsort over the whole row, as in the reference: its order of equal logits depends on the row's length.
        starts = np.argsort(start_logits[rows, :length])[:, : -n_best_size - 1 : -1]
        stops = np.argsort(end_logits[rows, :length])[:, : -n_best_size - 1 : -1]
        picked = rows[:, None]
        start_logit, end_logit = start_logits[picked, starts], end_logits[picked, stops]
        begin, end = _characters(offset_mapping, rows, starts, 0), _characters(offset_mapping, rows, stops, 1)
        # Tokens outside the context are ranked above and dropped here: NaN sorts last and is removed below.
        missing = start_logits.dtype.type(np.nan)
        start_key = np.where(begin >= 0, -start_logit, missing)
        key = start_key[:, :, None] + np.where(end >= 0, -end_logit, missing)[:, None, :]
        tokens = stops.astype(np.int32)[:, None, :] - starts.astype(np.int32)[:, :, None]
        key[tokens.view(np.uint32) >= max_answer_length] = (
            missing  # an end before its start becomes a huge unsigned number
        )
        key = key.reshape(len(rows), -1)
        best = np.argsort(key)[:, : n_best_size + 1]
        ranked = np.take_along_axis(key, best, 1)
        tied = (ranked[:, 1:] == ranked[:, :-1]).any(1)  # only then does the slower, stable sort differ
        best[tied] = np.argsort(key[tied], kind="stable")[:, : n_best_size + 1]
        best = best[:, :n_best_size]
        kept = ~np.isnan(np.take_along_axis(key, best, 1))
        start_rank, end_rank = np.divmod(best, starts.shape[1])
        own = np.arange(len(rows))[:, None]
        columns = slice(best.shape[1])
        found.questions[rows, columns] = np.where(kept, owners[picked], -1)
        found.begins[rows, columns], found.ends[rows, columns] = begin[own, start_rank], end[own, end_rank]
        found.start_logits[rows, columns] = start_logit[own, start_rank]
        found.end_logits[rows, columns] = end_logit[own, end_rank]
    return found.take(found.questions >= 0)


def _characters(offset_mapping: pa.ListArray, rows: np.ndarray, tokens: np.ndarray, end: int) -> np.ndarray:
    """Look up where tokens begin (``end`` 0) or end (1) in the context, [rows, n] as ``tokens``; -1 outside of it.

    Reads the mapping's Arrow arrays directly: a NumPy array of all tokens would take longer than finding the spans.
    """
    pairs = offset_mapping.values
    place = offset_mapping.offsets.to_numpy()[rows][:, None] + tokens
    where = pairs.offsets.to_numpy()
    inside = where[place] < where[place + 1]
    characters = pairs.values.to_numpy()
    if len(characters) == 0:
        return np.full(tokens.shape, -1)
    return np.where(inside, characters[np.where(inside, where[place] + end, 0)], -1)


def _named(
    spans: Spans, best: slice, context: str, null: tuple[np.floating, np.floating] | None
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Texts, logits and scores of a question's best spans, with ``null`` (no answer) always among them."""
    begins, ends = spans.begins[best].tolist(), spans.ends[best].tolist()
    texts = [context[begin:end] for begin, end in zip(begins, ends, strict=True)]
    start_logits, end_logits = spans.start_logits[best], spans.end_logits[best]
    if null is not None and (0, 0) not in zip(begins, ends, strict=True):
        texts.append("")
        start_logits, end_logits = np.append(start_logits, null[0]), np.append(end_logits, null[1])
    scores = start_logits + end_logits
    # No span of the context is a candidate: the reference script answers with a placeholder.
    if not texts or ((null is not None or len(texts) == 1) and not any(texts)):
        texts.insert(0, "empty")
        start_logits, end_logits, scores = (
            np.insert(part.astype(float), 0, 0.0) for part in (start_logits, end_logits, scores)
        )
    return texts, start_logits, end_logits, scores
