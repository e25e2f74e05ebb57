"""How does a question become features, and how do logits become an answer? Features in, answer spans out.

A question and its context rarely fit into a model's window, so the context is cut into overlapping windows, one
*feature* each. Every feature scores each of its tokens as the start and as the end of the answer; the best pair over
all features of one question, mapped back to characters, is the answer. EM and F1 then compare it with what people wrote
(Rajpurkar et al. 2016, arXiv:1606.05250; with unanswerable questions 2018, arXiv:1806.03822), with no network.
"""

import collections
import json
import logging
import os
import re
import string
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat
from json.encoder import encode_basestring_ascii as encode_text
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa
from datasets import Dataset
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from data_qa import DataError

logger = logging.getLogger(__name__)

CHUNK = 256  # features whose answers are looked for at once
ARROW_TYPES = {
    "example_id": pa.string(),
    "offset_mapping": pa.list_(pa.list_(pa.int64())),
    "cls_index": pa.int64(),
}
# What stands before the values of one candidate in the file of n-best lists.
N_BEST_END = "\n        },"
N_BEST_KEYS = (
    f'{N_BEST_END}\n        {{\n            "text": ',
    ',\n            "probability": ',
    ',\n            "start_logit": ',
    ',\n            "end_logit": ',
)

# ---------------------------------------------------------------------------------------------------------------------
# Features


def prepare_train_features(
    examples: Mapping[str, list],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int = 384,
    doc_stride: int = 128,
    pad_to_max_length: bool = True,
    length_column: str | None = None,
) -> pa.Table:
    """Cut questions and contexts into features, each labelled with the tokens where its answer starts and ends.

    A feature whose window does not hold the whole answer, or whose question has none, is labelled with the CLS token.
    Of several answers the first counts.

    Args:
        examples: a batch of rows of ``QA_FEATURES``.
        tokenizer: a fast tokenizer. Padding on the left also puts the context before the question.
        max_seq_length: tokens of a feature, question and special tokens included.
        doc_stride: tokens that two windows of one context share.
        pad_to_max_length: pad here; otherwise features keep their length and the collator pads.
        length_column: also give the number of tokens under this name, for batches by length.

    Returns:
        The tokenizer's columns, ``start_positions`` and ``end_positions``: one row for each feature.

    Raises:
        DataError: a question leaves no room for its context.
    """
    features, owners, columns = _windows(examples, tokenizer, max_seq_length, doc_stride, pad_to_max_length)
    answers = examples["answers"]
    spans = [
        _answer_span(answers[owner], feature, tokenizer) or (_cls_index(feature.ids, tokenizer),) * 2
        for feature, owner in zip(features, owners, strict=True)
    ]
    columns["start_positions"] = pa.array([start for start, _ in spans], pa.int64())
    columns["end_positions"] = pa.array([end for _, end in spans], pa.int64())
    if length_column is not None:
        columns[length_column] = pa.array([sum(feature.attention_mask) for feature in features], pa.int64())
    return pa.table(columns)


def prepare_validation_features(
    examples: Mapping[str, list],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int = 384,
    doc_stride: int = 128,
    pad_to_max_length: bool = True,
) -> pa.Table:
    """Cut questions and contexts into features that remember where in the context each of their tokens stands.

    The arguments are those of :func:`prepare_train_features`.

    Returns:
        The tokenizer's columns, ``example_id``, and ``offset_mapping``, which is None for tokens outside the context.
        Where the tokenizer pads on the left, also ``cls_index``: the CLS token is not the first one there.
    """
    features, owners, columns = _windows(examples, tokenizer, max_seq_length, doc_stride, pad_to_max_length)
    columns["offset_mapping"] = _offset_mapping(features, owners, examples["context"], tokenizer)
    columns["example_id"] = pa.array([examples["id"][owner] for owner in owners], pa.string())
    if tokenizer.padding_side == "left":
        columns["cls_index"] = pa.array([_cls_index(feature.ids, tokenizer) for feature in features], pa.int64())
    return pa.table(columns)


def _windows(
    examples: Mapping[str, list],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    doc_stride: int,
    pad_to_max_length: bool,
) -> tuple[list[Encoding], list[int], dict[str, pa.Array]]:
    """Give all features of a batch, the row of the question that each belongs to, and the tokenizer's columns."""
    # Some of SQuAD's questions begin with many blanks.
    questions = [question.lstrip() for question in examples["question"]]
    # SQuAD asks five questions about a context, and tokenizing takes most of the time: do it once.
    contexts = list(dict.fromkeys(examples["context"]))
    encoded_questions, encoded_contexts = _encode(questions, contexts, tokenizer)
    context_of = dict(zip(contexts, encoded_contexts, strict=True))
    encoded_contexts = [context_of[context] for context in examples["context"]]
    _check_room(examples, encoded_questions, encoded_contexts, tokenizer, max_seq_length, doc_stride)

    cutting: dict[str, Any] = {
        "max_length": max_seq_length,
        "stride": doc_stride,
        "return_overflowing_tokens": True,
        "padding": "max_length" if pad_to_max_length else False,
    }
    if tokenizer.padding_side == "right":
        # Of no interest in itself: it tells the backend how pairs are cut and padded.
        tokenizer([""], [""], truncation="only_second", **cutting)
        join = tokenizer.backend_tokenizer.post_process
        joined = list(map(join, encoded_questions, encoded_contexts))
        features = [window for first in joined for window in (first, *first.overflowing)]
        owners = [row for row, first in enumerate(joined) for _ in range(1 + len(first.overflowing))]
    else:
        # The usual way: as first of a pair, a context that was encoded apart would lose sight of its tokens.
        pairs = tokenizer(examples["context"], questions, truncation="only_first", **cutting)
        features, owners = pairs.encodings, pairs["overflow_to_sample_mapping"]

    bounds = _bounds([len(feature) for feature in features])
    columns = {
        "input_ids": np.fromiter(chain.from_iterable([feature.ids for feature in features]), np.int32, bounds[-1])
    }
    for name, attribute in (("token_type_ids", "type_ids"), ("attention_mask", "attention_mask")):
        if name in tokenizer.model_input_names:
            rows = [bytes(getattr(feature, attribute)) for feature in features]
            columns[name] = np.frombuffer(b"".join(rows), np.int8)
    return features, owners, {name: pa.ListArray.from_arrays(bounds, values) for name, values in columns.items()}


def _encode(
    questions: list[str], contexts: list[str], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[Encoding], list[Encoding]]:
    """Tokenize texts as the tokenizer does before it joins them to pairs: questions as first, contexts as second."""
    tokenizer([""])  # of no interest in itself: it tells the backend neither to cut nor to pad
    backend = tokenizer.backend_tokenizer
    # It has its turn where the texts are joined; here it would change offsets and types once too often.
    post_processor, backend.post_processor = backend.post_processor, None
    try:
        return backend.encode_batch(questions), backend.encode_batch([("", context) for context in contexts])
    finally:
        backend.post_processor = post_processor


def _bounds(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Say where rows of these lengths begin when they stand one after the other, and where the last one ends."""
    bounds = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=bounds[1:])
    return bounds


def _check_room(
    examples: Mapping[str, list],
    questions: list[Encoding],
    contexts: list[Encoding],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    doc_stride: int,
) -> None:
    """Refuse a question that leaves its context no window, where the tokenizer itself would abort the process."""
    special = tokenizer.num_special_tokens_to_add(pair=True)
    if doc_stride >= max_seq_length - special:
        raise DataError(
            f"--doc_stride {doc_stride} has to be less than the {max_seq_length - special} tokens that "
            f"--max_seq_length {max_seq_length} leaves for question and context"
        )
    for index, (question, context) in enumerate(zip(questions, contexts, strict=True)):
        room = max_seq_length - special - len(question)
        if room <= doc_stride and len(context) > room:
            name = examples["id"][index] if "id" in examples else index
            raise DataError(
                f"question '{name}' has {len(question)} tokens: of --max_seq_length {max_seq_length} it leaves "
                f"{max(room, 0)} for a context of {len(context)}, and --doc_stride {doc_stride} has to be less"
            )


def _context_window(feature: Encoding, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int] | None:
    """Give the first and the last token of the context in a feature, or None where no token is left of it."""
    sequence_ids = feature.sequence_ids
    context_index = 1 if tokenizer.padding_side == "right" else 0
    if context_index not in sequence_ids:
        return None
    first = sequence_ids.index(context_index)
    return first, first + sequence_ids.count(context_index) - 1


def _answer_span(
    answers: Mapping[str, list], feature: Encoding, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int] | None:
    """Give the first and the last token of the first answer, or None where the window does not hold all of it."""
    window = _context_window(feature, tokenizer)
    # An empty text is no answer.
    given = next(((t, s) for t, s in zip(answers["text"], answers["answer_start"], strict=True) if t.strip()), None)
    if window is None or given is None:
        return None
    first, last = window
    text, start_char = given
    end_char = start_char + len(text)

    def begins(token: int) -> int:
        return feature.token_to_chars(token)[0]

    def ends(token: int) -> int:
        return feature.token_to_chars(token)[1]

    if begins(first) > start_char or ends(last) < end_char:
        return None
    inside = range(first, last + 1)
    # The last token that begins at or before the answer; the first that ends at or after it. The search stays inside
    # the window, so an answer in a window's last token keeps its label.
    return first + bisect_right(inside, start_char, key=begins) - 1, first + bisect_left(inside, end_char, key=ends)


def _cls_index(input_ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if token is not None and token in input_ids:
            return input_ids.index(token)
    return 0


def _offset_mapping(
    features: list[Encoding], owners: list[int], contexts: list[str], tokenizer: PreTrainedTokenizerBase
) -> pa.ListArray:
    """Give each token's first character and the one after its last, as pairs, and None outside the context."""
    bounds, windows_of = _bounds([len(feature) for feature in features]), collections.Counter(owners)
    outside, inside, known = np.ones(bounds[-1], bool), [np.zeros(0, np.int64)], {}
    position, last_owner = 0, None
    for feature, owner, begin in zip(features, owners, bounds.tolist(), strict=False):
        position, last_owner = (position + 1 if owner == last_owner else 0), owner
        window = _context_window(feature, tokenizer)
        if window is None:
            continue
        first, last = window
        outside[begin + first : begin + last + 1] = False
        # All that decides which of a context's tokens these are: most questions share theirs with four others.
        key = contexts[owner], windows_of[owner], position, last - first
        if key not in known:
            pairs = chain.from_iterable(feature.offsets[first : last + 1])
            known[key] = np.fromiter(pairs, np.int64, 2 * (last - first + 1))
        inside.append(known[key])
    pairs = pa.ListArray.from_arrays(_bounds(np.where(outside, 0, 2)), np.concatenate(inside), mask=pa.array(outside))
    return pa.ListArray.from_arrays(bounds, pairs)


# ---------------------------------------------------------------------------------------------------------------------
# Answers


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

    A feature offers the pairs of its ``n_best_size`` best starts and ends that lie in the context, in order, and span
    ``max_answer_length`` tokens at most; a pair's score is the sum of its two logits. Of all pairs of all features the
    ``n_best_size`` best are kept, of equal ones the earlier. With ``version_2_with_negative`` "no answer" takes part,
    with the score of the CLS token in the feature where that is lowest.

    Args:
        examples: rows with ``id`` and ``context``.
        features: rows with ``example_id`` and ``offset_mapping`` (None outside the context), in the logits' order.
        predictions: start logits and end logits, [features, tokens] each; columns past a feature's own length are
            padding and are not looked at.
        version_2_with_negative: whether a question may have no answer.
        n_best_size: how many candidates are kept.
        max_answer_length: longest answer, in tokens.
        null_score_diff_threshold: "no answer" wins where its score is ahead of the best answer's by more than this.
        output_dir: where predictions.json, nbest_predictions.json and, with ``version_2_with_negative``,
            null_odds.json go; None writes nothing.
        prefix: put before these names, with an underscore.
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
        spans = Spans.concatenate([spans, nulls])  # last, so that of equal scores an answer's comes first
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

    if written is not None:
        os.makedirs(output_dir, exist_ok=True)
        contents = {"predictions.json": answers, "nbest_predictions.json": written}
        if version_2_with_negative:
            contents["null_odds.json"] = null_odds
        for name, content in contents.items():
            path = os.path.join(output_dir, name if prefix is None else f"{prefix}_{name}")
            logger.info(f"Writing {path}")
            write_json(path, content)
    return answers


def _column(rows: Dataset | Sequence[Mapping[str, Any]], name: str) -> Iterator[Any]:
    """Yield one column; of a data set some rows at a time, because contexts are large."""
    if isinstance(rows, Dataset):
        for batch in rows.select_columns(name).with_format("arrow").iter(CHUNK):
            yield from batch[name].to_pylist()
    else:
        yield from (row[name] for row in rows)


@dataclass
class Spans:
    """Candidates, one row each: whose question's, from and to which character of its context, and their logits."""

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
    """Give the best spans of all features, in the features' order, and for each question the lowest score of none."""
    number_of = {example_id: number for number, example_id in enumerate(ids)}
    no_logits = np.zeros(0, np.float32)
    spans = nulls = [Spans(*[np.zeros(0, np.int32)] * 3, no_logits, no_logits)]
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
        logits = [np.asarray(part[rows]) for part in predictions]
        at_cls = [part[np.arange(len(cls)), cls] for part in logits]
        nulls.append(Spans(owners, np.zeros_like(owners), np.zeros_like(owners), *at_cls))
        # A data set without one token of a context has guessed another type.
        offsets = table["offset_mapping"].combine_chunks().cast(ARROW_TYPES["offset_mapping"])
        spans.append(_feature_spans(owners, offsets, *logits, n_best_size, max_answer_length))
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
    """Give each feature's best spans, best first; equal ones in the order of their start's rank, then their end's."""
    lengths = np.minimum(offset_mapping.value_lengths().to_numpy(), start_logits.shape[1])
    shape = (len(owners), min(n_best_size, lengths.max()) ** 2)
    found = Spans(
        *(np.full((len(owners), min(n_best_size, shape[1])), -1, np.int32) for _ in range(3)),
        *(np.zeros((len(owners), min(n_best_size, shape[1])), start_logits.dtype) for _ in range(2)),
    )
    for length in np.unique(lengths):  # a feature's padding takes no part in its ranking
        rows = np.flatnonzero(lengths == length)
        # The ranking is that of the plain rule's np.argsort, whose order of equal logits depends on all of the row.
        starts = np.argsort(start_logits[rows, :length])[:, : -n_best_size - 1 : -1]
        stops = np.argsort(end_logits[rows, :length])[:, : -n_best_size - 1 : -1]
        picked = rows[:, None]
        start_logit, end_logit = start_logits[picked, starts], end_logits[picked, stops]
        begin, end = _characters(offset_mapping, rows, starts, 0), _characters(offset_mapping, rows, stops, 1)
        # Tokens outside the context take part in the ranking above, and leave it here: NaN comes last, and goes.
        missing = start_logits.dtype.type(np.nan)
        start_key = np.where(begin >= 0, -start_logit, missing)
        key = start_key[:, :, None] + np.where(end >= 0, -end_logit, missing)[:, None, :]
        tokens = stops.astype(np.int32)[:, None, :] - starts.astype(np.int32)[:, :, None]
        key[tokens.view(np.uint32) >= max_answer_length] = missing  # an end before its start is a huge number there
        key = key.reshape(len(rows), -1)
        best = np.argsort(key)[:, : n_best_size + 1]
        ranked = np.take_along_axis(key, best, 1)
        tied = (ranked[:, 1:] == ranked[:, :-1]).any(1)  # only then does the slower, stable way give anything else
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
    """Give the characters where tokens begin (``end`` 0) or end (1), [rows, n] as ``tokens``; -1 outside the context.

    The mapping's own arrays are looked up: making one of all tokens would take longer than finding the spans.
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
    """Give a question's best spans their text, ``null`` (no answer) always among them: texts, logits and scores."""
    begins, ends = spans.begins[best].tolist(), spans.ends[best].tolist()
    texts = [context[begin:end] for begin, end in zip(begins, ends, strict=True)]
    start_logits, end_logits = spans.start_logits[best], spans.end_logits[best]
    if null is not None and (0, 0) not in zip(begins, ends, strict=True):
        texts.append("")
        start_logits, end_logits = np.append(start_logits, null[0]), np.append(end_logits, null[1])
    scores = start_logits + end_logits
    # Nothing in the context can be the answer: put a word there, so that there is something to say.
    if not texts or ((null is not None or len(texts) == 1) and not any(texts)):
        texts.insert(0, "empty")
        start_logits, end_logits, scores = (
            np.insert(part.astype(float), 0, 0.0) for part in (start_logits, end_logits, scores)
        )
    return texts, start_logits, end_logits, scores


class _NBestText:
    """The n-best lists as the JSON text that will be written: as objects they would take ten times the memory."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.waiting: list[tuple[str, list[str], np.ndarray]] = []

    def add(self, name: str, texts: list[str], probabilities: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        """Append one question's list, best first."""
        self.waiting.append((name, texts, np.array([probabilities, starts, ends], float)))
        if len(self.waiting) == CHUNK:
            self._format()

    def _format(self) -> None:
        """Write down what waits: many numbers at once take a third of the time."""
        numbers = iter(_json_numbers(np.concatenate([values.ravel() for _, _, values in self.waiting])))
        for name, texts, _ in self.waiting:
            columns = [map(encode_text, texts), *(list(islice(numbers, len(texts))) for _ in range(3))]
            keyed = chain.from_iterable((repeat(key), column) for key, column in zip(N_BEST_KEYS, columns, strict=True))
            records = "".join(chain.from_iterable(zip(*keyed, strict=False))).removeprefix(N_BEST_END)
            self.blocks.append(f"    {encode_text(name)}: [{records}{N_BEST_END[:-1]}\n    ]")
        self.waiting = []

    def write_to(self, file: TextIO) -> None:
        """Write what json.dump with an indent of 4 would."""
        if self.waiting:
            self._format()
        file.write("{\n" if self.blocks else "{")
        for number, block in enumerate(self.blocks):
            file.write((",\n" if number else "") + block)
        file.write("\n}" if self.blocks else "}")


def _json_numbers(values: np.ndarray) -> list[str]:
    """Write numbers as json does: the fewest digits that say which number is meant."""
    texts = pa.array(values).cast(pa.string()).to_pylist()
    size = np.abs(values)
    alike = (
        (size >= 1e-4) & (size < 1e9) & (size != np.floor(size))
    )  # others get an exponent or a ".0", or are no number
    for index in np.flatnonzero(~alike):
        texts[index] = json.dumps(float(values[index]))
    return texts


def write_json(path: str, content: Any) -> None:
    """Write a JSON file that is either complete or not there: under another name first."""
    unfinished = f"{path}.{os.getpid()}.tmp"
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
            if isinstance(content, _NBestText):
                content.write_to(file)
            else:
                json.dump(content, file, indent=4)
            file.write("\n")
        os.replace(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------------
# Metrics


def normalize_answer(text: str) -> str:
    """Lower the case and take out punctuation, the articles and extra blanks, as SQuAD's evaluation does."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact_score(prediction: str, truth: str) -> float:
    """Give 1.0 where the normalized texts are the same, otherwise 0.0."""
    return float(normalize_answer(prediction) == normalize_answer(truth))


def f1_score(prediction: str, truth: str) -> float:
    """Give the F1 of the words that prediction and truth share; 0.0 where they share none."""
    predicted, true = normalize_answer(prediction).split(), normalize_answer(truth).split()
    shared = sum((collections.Counter(predicted) & collections.Counter(true)).values())
    return 2 * shared / (len(predicted) + len(true)) if shared else 0.0


def squad_metrics(
    predictions: Sequence[Mapping[str, Any]], references: Sequence[Mapping[str, Any]]
) -> dict[str, float]:
    """Score answers as SQuAD v1.1 does: the best match among a question's true answers, averaged over the questions.

    Args:
        predictions: records ``{"id", "prediction_text"}``.
        references: records ``{"id", "answers": {"text": [...]}}``; one without a prediction scores 0.

    Returns:
        ``exact_match`` and ``f1``, in percent.

    Raises:
        DataError: a question without a true answer, or no question.
    """
    predicted = {record["id"]: record["prediction_text"] for record in predictions}
    if not references:
        raise DataError("no questions to score")
    unanswerable = [record["id"] for record in references if not record["answers"]["text"]]
    if unanswerable:
        raise DataError(
            f"{len(unanswerable)} of {len(references)} questions have no answer, '{unanswerable[0]}' the first: "
            "with --version_2_with_negative they count as questions that should get none"
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
    """Score answers as SQuAD 2.0 does, where "" is the right answer to a question that has none.

    Args:
        predictions: records ``{"id", "prediction_text", "no_answer_probability"}``.
        references: records ``{"id", "answers": {"text": [...]}}``; one without a prediction is left out.
        no_answer_threshold: a prediction with a higher no-answer probability counts as "".

    Returns:
        ``exact``, ``f1`` and ``total``; the same after ``HasAns_`` and ``NoAns_`` where there are such questions;
        ``best_exact``, ``best_f1`` and the thresholds ``best_exact_thresh``, ``best_f1_thresh`` that reach them.
        Scores in percent.

    Raises:
        DataError: no question, or none with a prediction.
    """
    predicted = {record["id"]: record["prediction_text"] for record in predictions}
    no_answer = {record["id"]: record["no_answer_probability"] for record in predictions}
    has_answer = {record["id"]: bool(record["answers"]["text"]) for record in references}
    scores: dict[str, dict[str, float]] = {"exact": {}, "f1": {}}
    for record in references:
        if record["id"] not in predicted:
            continue
        # An answer of which normalizing leaves nothing is none.
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
    """Find the no-answer threshold with the best score: admit predictions from the surest to the least sure."""
    current = best = float(sum(not answerable for answerable in has_answer.values()))
    threshold = 0.0
    for name in sorted(no_answer, key=lambda name: no_answer[name]):
        if name not in raw:
            continue
        current += raw[name] if has_answer[name] else -float(bool(predicted[name]))
        if current > best:
            best, threshold = current, no_answer[name]
    return 100.0 * best / len(raw), threshold
