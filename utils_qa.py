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
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import BatchEncoding, PreTrainedTokenizerBase

from data_qa import DataError

logger = logging.getLogger(__name__)

# ---------------------------------------------------------------------------------------------------------------------
# Features


def prepare_train_features(
    examples: Mapping[str, list],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int = 384,
    doc_stride: int = 128,
    pad_to_max_length: bool = True,
    length_column: str | None = None,
) -> BatchEncoding:
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
    features = _windows(examples, tokenizer, max_seq_length, doc_stride, pad_to_max_length)
    owners = features.pop("overflow_to_sample_mapping")
    offset_mapping = features.pop("offset_mapping")
    spans = []
    for index, (owner, offsets) in enumerate(zip(owners, offset_mapping, strict=True)):
        window = _context_window(features, index, tokenizer)
        span = _answer_span(examples["answers"][owner], offsets, window)
        spans.append(span or (_cls_index(features["input_ids"][index], tokenizer),) * 2)
    features["start_positions"] = [start for start, _ in spans]
    features["end_positions"] = [end for _, end in spans]
    if length_column is not None:
        features[length_column] = [sum(mask) for mask in features["attention_mask"]]
    return features


def prepare_validation_features(
    examples: Mapping[str, list],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int = 384,
    doc_stride: int = 128,
    pad_to_max_length: bool = True,
) -> BatchEncoding:
    """Cut questions and contexts into features that remember where in the context each of their tokens stands.

    The arguments are those of :func:`prepare_train_features`.

    Returns:
        The tokenizer's columns, ``example_id``, and ``offset_mapping``, which is None for tokens outside the context.
        Where the tokenizer pads on the left, also ``cls_index``: the CLS token is not the first one there.
    """
    features = _windows(examples, tokenizer, max_seq_length, doc_stride, pad_to_max_length)
    owners = features.pop("overflow_to_sample_mapping")
    context_index = 1 if tokenizer.padding_side == "right" else 0
    features["example_id"] = [examples["id"][owner] for owner in owners]
    features["offset_mapping"] = [
        [
            offset if sequence == context_index else None
            for offset, sequence in zip(offsets, features.sequence_ids(index), strict=True)
        ]
        for index, offsets in enumerate(features["offset_mapping"])
    ]
    if tokenizer.padding_side == "left":
        features["cls_index"] = [_cls_index(input_ids, tokenizer) for input_ids in features["input_ids"]]
    return features


def _windows(
    examples: Mapping[str, list],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    doc_stride: int,
    pad_to_max_length: bool,
) -> BatchEncoding:
    # Some of SQuAD's questions begin with many blanks.
    questions = [question.lstrip() for question in examples["question"]]
    contexts = examples["context"]
    _check_room(examples, questions, tokenizer, max_seq_length, doc_stride)
    context_last = tokenizer.padding_side == "right"
    return tokenizer(
        questions if context_last else contexts,
        contexts if context_last else questions,
        truncation="only_second" if context_last else "only_first",
        max_length=max_seq_length,
        stride=doc_stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length" if pad_to_max_length else False,
    )


def _check_room(
    examples: Mapping[str, list],
    questions: list[str],
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
    encoded = tokenizer(questions, add_special_tokens=False, return_attention_mask=False, verbose=False)
    for index, question_ids in enumerate(encoded["input_ids"]):
        room = max_seq_length - special - len(question_ids)
        if room > doc_stride:
            continue
        context_ids = tokenizer(examples["context"][index], add_special_tokens=False, verbose=False)["input_ids"]
        if len(context_ids) > room:
            name = examples["id"][index] if "id" in examples else index
            raise DataError(
                f"question '{name}' has {len(question_ids)} tokens: of --max_seq_length {max_seq_length} it leaves "
                f"{max(room, 0)} for a context of {len(context_ids)}, and --doc_stride {doc_stride} has to be less"
            )


def _context_window(features: BatchEncoding, index: int, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int] | None:
    """Give the first and the last token of the context in a feature, or None where no token is left of it."""
    sequence_ids = features.sequence_ids(index)
    context_index = 1 if tokenizer.padding_side == "right" else 0
    if context_index not in sequence_ids:
        return None
    first = sequence_ids.index(context_index)
    return first, len(sequence_ids) - 1 - sequence_ids[::-1].index(context_index)


def _answer_span(
    answers: Mapping[str, list], offsets: list[tuple[int, int]], window: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Give the first and the last token of the first answer, or None where the window does not hold all of it."""
    if window is None or not answers["answer_start"]:
        return None
    first, last = window
    start_char = answers["answer_start"][0]
    end_char = start_char + len(answers["text"][0])
    if offsets[first][0] > start_char or offsets[last][1] < end_char:
        return None
    inside = offsets[first : last + 1]
    # The last token that begins at or before the answer; the first that ends at or after it. The search stays inside
    # the window, so an answer in a window's last token keeps its label.
    start = first + bisect_right(inside, start_char, key=lambda offset: offset[0]) - 1
    end = first + bisect_left(inside, end_char, key=lambda offset: offset[1])
    return start, end


def _cls_index(input_ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    for token in (tokenizer.cls_token_id, tokenizer.bos_token_id):
        if token is not None and token in input_ids:
            return input_ids.index(token)
    return 0


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
    all_start_logits, all_end_logits = predictions
    if len(all_start_logits) != len(features):
        raise ValueError(f"got the logits of {len(all_start_logits)} features for {len(features)} features")
    logger.setLevel(log_level)
    logger.info(f"Finding the answers of {len(examples)} questions in {len(features)} features")

    features_of = collections.defaultdict(list)
    for index, example_id in enumerate(_column(features, "example_id")):
        features_of[example_id].append(index)
    cls_indices = _column(features, "cls_index", default=0)
    offsets_of = _column(features, "offset_mapping")

    answers: dict[str, str] = {}
    n_best: dict[str, list[dict[str, Any]]] = {}
    null_odds: dict[str, float] = {}
    for example_id, context in zip(_column(examples, "id"), _column(examples, "context"), strict=True):
        candidates, null = [], None
        for index in features_of[example_id]:
            offsets, cls_index = offsets_of[index], cls_indices[index]
            start_logits = np.asarray(all_start_logits[index])[: len(offsets)]
            end_logits = np.asarray(all_end_logits[index])[: len(offsets)]
            if null is None or start_logits[cls_index] + end_logits[cls_index] < null["score"]:
                null = _candidate((0, 0), start_logits[cls_index], end_logits[cls_index])
            candidates += _feature_candidates(offsets, start_logits, end_logits, n_best_size, max_answer_length)
        null = null or _candidate((0, 0), 0.0, 0.0)  # a question without features
        best = _rank(candidates, null if version_2_with_negative else None, context, n_best_size)
        n_best[example_id] = best
        answers[example_id] = best[0]["text"]
        if version_2_with_negative:
            answer = next(found for found in best if found["text"])
            null_odds[example_id] = float(null["score"] - answer["start_logit"] - answer["end_logit"])
            answers[example_id] = "" if null_odds[example_id] > null_score_diff_threshold else answer["text"]

    if output_dir is not None:
        os.makedirs(output_dir, exist_ok=True)
        written = {"predictions.json": answers, "nbest_predictions.json": n_best}
        if version_2_with_negative:
            written["null_odds.json"] = null_odds
        for name, content in written.items():
            path = os.path.join(output_dir, name if prefix is None else f"{prefix}_{name}")
            logger.info(f"Writing {path}")
            write_json(path, content)
    return answers


def _column(rows: Dataset | Sequence[Mapping[str, Any]], name: str, default: Any = None) -> Sequence[Any]:
    """Give one column; of a data set lazily, because offset mappings are large."""
    if isinstance(rows, Dataset):
        return rows[name] if name in rows.column_names else [default] * len(rows)
    return [row.get(name, default) for row in rows]


def _feature_candidates(
    offsets: list[tuple[int, int] | None],
    start_logits: np.ndarray,
    end_logits: np.ndarray,
    n_best_size: int,
    max_answer_length: int,
) -> list[dict[str, Any]]:
    """Give a feature's best spans, best first; equal ones in the order of their start's rank, then their end's."""
    starts = np.argsort(start_logits)[-1 : -n_best_size - 1 : -1]
    ends = np.argsort(end_logits)[-1 : -n_best_size - 1 : -1]
    # Tokens outside the context take part in the ranking above, and leave it here.
    starts = starts[[offsets[index] is not None for index in starts]]
    ends = ends[[offsets[index] is not None for index in ends]]
    length = ends[None, :] - starts[:, None] + 1
    rows, columns = np.nonzero((length >= 1) & (length <= max_answer_length))
    starts, ends = starts[rows], ends[columns]
    best = np.argsort(-(start_logits[starts] + end_logits[ends]), kind="stable")[:n_best_size]
    return [
        _candidate((offsets[start][0], offsets[end][1]), start_logits[start], end_logits[end])
        for start, end in zip(starts[best].tolist(), ends[best].tolist(), strict=True)
    ]


def _candidate(offsets: tuple[int, int], start_logit: np.floating, end_logit: np.floating) -> dict[str, Any]:
    return {"offsets": offsets, "score": start_logit + end_logit, "start_logit": start_logit, "end_logit": end_logit}


def _rank(
    candidates: list[dict[str, Any]], null: dict[str, Any] | None, context: str, n_best_size: int
) -> list[dict[str, Any]]:
    """Keep the best candidates, ``null`` (no answer) always among them, and give them text and probability."""
    if null is not None:
        candidates = [*candidates, null]
    best = sorted(candidates, key=lambda candidate: candidate["score"], reverse=True)[:n_best_size]
    if null is not None and all(found["offsets"] != (0, 0) for found in best):
        best.append(null)
    texts = [context[slice(*found["offsets"])] for found in best]
    # Nothing in the context can be the answer: put a word there, so that there is something to say.
    if not best or ((null is not None or len(best) == 1) and not any(texts)):
        best.insert(0, _candidate((0, 0), 0.0, 0.0))
        texts.insert(0, "empty")
    scores = np.array([found["score"] for found in best])
    exponentials = np.exp(scores - np.max(scores))
    return [
        {
            "text": text,
            "probability": float(probability),
            "start_logit": float(found["start_logit"]),
            "end_logit": float(found["end_logit"]),
        }
        for found, text, probability in zip(best, texts, exponentials / exponentials.sum(), strict=True)
    ]


def write_json(path: str, content: Any) -> None:
    """Write a JSON file that is either complete or not there: under another name first."""
    unfinished = f"{path}.{os.getpid()}.tmp"
    try:
        with open(unfinished, "w", encoding="utf-8") as file:
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
