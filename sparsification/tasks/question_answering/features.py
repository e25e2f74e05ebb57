"""Features of question answering: windows of a question and its context, with labels.

A question and its context rarely fit into a model's window, so the context is split into overlapping windows. Each
window with the question is a *feature*.
"""

import collections
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import Encoding
from transformers import PreTrainedTokenizerBase

from sparsification.tasks.errors import DataError

ARROW_TYPES = {
    "example_id": pa.string(),
    "offset_mapping": pa.list_(pa.list_(pa.int64())),
    "cls_index": pa.int64(),
}


def prepare_train_features(
    examples: Mapping[str, list],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int = 384,
    doc_stride: int = 128,
    pad_to_max_length: bool = True,
    length_column: str | None = None,
) -> pa.Table:
    """Make features from questions and contexts, labelled with the tokens where the answer starts and ends.

    A feature whose window does not hold the whole answer, or whose question has none, is labelled with the CLS token.
    Of several answers, the first is used.

    Args:
        examples: a batch of rows of ``QA_FEATURES``.
        tokenizer: a fast tokenizer. If it pads on the left, the context comes before the question.
        max_seq_length: tokens of a feature, question and special tokens included.
        doc_stride: tokens that two windows of one context share.
        pad_to_max_length: pad the features; otherwise the collator pads batches.
        length_column: name of an additional column of the number of tokens, for batches by length.

    Returns:
        The tokenizer's columns, ``start_positions`` and ``end_positions``; one row for each feature.

    Raises:
        DataError: a question leaves no tokens for its context.
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
    """Make features from questions and contexts, with the position of each token in the context.

    The arguments are those of :func:`prepare_train_features`.

    Returns:
        The tokenizer's columns, ``example_id``, and ``offset_mapping``, which is None for tokens outside the context.
        If the tokenizer pads on the left, also ``cls_index``, because the CLS token is not the first one then.
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
    """All features of a batch, the row of each feature's question, and the tokenizer's columns."""
    # Some of SQuAD's questions begin with many spaces.
    questions = [question.lstrip() for question in examples["question"]]
    # SQuAD has about five questions for each context, and tokenizing takes most of the time: do it once.
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
        # Called for its side effect: it sets how the backend truncates and pads pairs.
        tokenizer([""], [""], truncation="only_second", **cutting)
        join = tokenizer.backend_tokenizer.post_process
        joined = list(map(join, encoded_questions, encoded_contexts))
        features = [window for first in joined for window in (first, *first.overflowing)]
        owners = [row for row, first in enumerate(joined) for _ in range(1 + len(first.overflowing))]
    else:
        # The tokenizer's own way: a context that was encoded separately cannot be truncated as first of a pair.
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
    """Tokenize questions as first and contexts as second of a pair, without joining them."""
    tokenizer([""])  # called for its side effect: the backend neither truncates nor pads
    backend = tokenizer.backend_tokenizer
    # It runs when the texts are joined; here it would change offsets and types a second time.
    post_processor, backend.post_processor = backend.post_processor, None
    try:
        return backend.encode_batch(questions), backend.encode_batch([("", context) for context in contexts])
    finally:
        backend.post_processor = post_processor


def _bounds(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """Offsets of rows of these lengths in one flat array, and its length at the end."""
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
    """Refuse a question that leaves no tokens for its context, for which the tokenizer would abort the process."""
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
    """First and last token of the context in a feature; None if it has no token of it."""
    sequence_ids = feature.sequence_ids
    context_index = 1 if tokenizer.padding_side == "right" else 0
    if context_index not in sequence_ids:
        return None
    first = sequence_ids.index(context_index)
    return first, first + sequence_ids.count(context_index) - 1


def _answer_span(
    answers: Mapping[str, list], feature: Encoding, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, int] | None:
    """First and last token of the first answer; None if the window does not hold all of it."""
    window = _context_window(feature, tokenizer)
    # An empty text is not an answer.
    given = next(((t, s) for t, s in zip(answers["text"], answers["answer_start"], strict=True) if t.strip()), None)
    if window is None or given is None:
        return None
    first, last = window
    text, start_char = given
    end_char = start_char + len(text)

    def characters(token: int) -> tuple[int, int]:
        span = feature.token_to_chars(token)
        if span is None:
            raise ValueError(f"a window must have tokens of the context only, got a special token at {token}")
        return span

    def begins(token: int) -> int:
        return characters(token)[0]

    def ends(token: int) -> int:
        return characters(token)[1]

    if begins(first) > start_char or ends(last) < end_char:
        return None
    inside = range(first, last + 1)
    # The last token that begins at or before the answer's start, and the first that ends at or after its end. The
    # search is limited to the window, so an answer in the window's last token keeps its label.
    return first + bisect_right(inside, start_char, key=begins) - 1, first + bisect_left(inside, end_char, key=ends)


def _cls_index(input_ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if token is not None and token in input_ids:
            return input_ids.index(token)
    return 0


def _offset_mapping(
    features: list[Encoding], owners: list[int], contexts: list[str], tokenizer: PreTrainedTokenizerBase
) -> pa.ListArray:
    """Each token's first character and the one after its last, as pairs; None outside the context."""
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
        # These values determine the offsets; most questions share their context with about four others.
        key = contexts[owner], windows_of[owner], position, last - first
        if key not in known:
            pairs = chain.from_iterable(feature.offsets[first : last + 1])
            known[key] = np.fromiter(pairs, np.int64, 2 * (last - first + 1))
        inside.append(known[key])
    pairs = pa.ListArray.from_arrays(_bounds(np.where(outside, 0, 2)), np.concatenate(inside), mask=pa.array(outside))
    return pa.ListArray.from_arrays(bounds, pairs)
