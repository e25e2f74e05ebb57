"""Answers of a saved model: ``sparsification predict MODEL --question ... --context ...``.

A model is what ``tasks/saved_model.py`` loads. Windows and answers are computed as in an evaluation.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import AutoModelForQuestionAnswering, PreTrainedTokenizerBase

from sparsification.model_io import tokenizer_limit
from sparsification.tasks.question_answering.answers import Spans, all_spans
from sparsification.tasks.question_answering.features import prepare_validation_features
from sparsification.tasks.saved_model import PredictError, open_model

OUTPUTS = ("start_logits", "end_logits")
MAX_LENGTH = 384  # tokens of a window, and tokens that two windows share: the defaults of run_qa.py
STRIDE = 128
N_BEST_SIZE = 20  # candidates over which probabilities are normalized, as in eval_nbest_predictions.json
Logits = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True)
class Answer:
    """A candidate answer and its position."""

    answer: str  # "" for no answer
    probability: float  # among the candidates
    start: int | None  # its first character in the context
    end: int | None  # the character after its last


@dataclass(frozen=True)
class Model:
    """A loaded model that answers questions."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int | None  # maximum number of tokens; None: no limit
    logits: Logits  # int64 [1, tokens] by name -> start logits and end logits, [1, tokens] each

    def answer(
        self,
        question: str,
        context: str,
        *,
        version_2_with_negative: bool = False,
        max_seq_length: int | None = None,
        doc_stride: int | None = None,
        max_answer_length: int = 30,
    ) -> list[Answer]:
        """Find the answer in all windows of the context.

        Args:
            question: the question.
            context: text of any length.
            version_2_with_negative: whether the model was trained on questions without an answer.
            max_seq_length: tokens of a window, question included; default 384, at most the model's maximum.
            doc_stride: tokens that two windows share; default 128, or fewer in a smaller window.
            max_answer_length: longest answer, in tokens.

        Returns:
            The candidates, best first, each span once.

        Raises:
            PredictError: question or context is empty, or the question is as long as a window.
            DataError: the question leaves no tokens for the context.
        """
        for name, text in (("question", question), ("context", context)):
            if not text.strip():
                raise PredictError(f"the {name} is empty")
        window, stride = self._windows(question, max_seq_length, doc_stride)
        examples = {"id": ["0"], "question": [question], "context": [context]}
        table = prepare_validation_features(examples, self.tokenizer, window, stride, pad_to_max_length=False)
        rows = table.to_pylist()
        names = [name for name in table.column_names if name in self.tokenizer.model_input_names]
        # One window at a time, so that none is padded; most contexts have few windows.
        outputs = [self.logits({name: np.array([row[name]], np.int64) for name in names}) for row in rows]
        width = max(len(row["input_ids"]) for row in rows)
        starts, ends = (
            np.concatenate([np.pad(output[part], [(0, 0), (0, width - output[part].shape[1])]) for output in outputs])
            for part in range(2)
        )
        spans, nulls = all_spans(["0"], rows, (starts, ends), N_BEST_SIZE, max_answer_length)
        return _ranked(context, spans, nulls if version_2_with_negative else None)

    def _windows(self, question: str, max_seq_length: int | None, doc_stride: int | None) -> tuple[int, int]:
        """Tokens of a window, and tokens that two windows share; values that are None are chosen to fit."""
        limits = [max_seq_length or MAX_LENGTH, tokenizer_limit(self.tokenizer), self.max_length]
        window = min(limit for limit in limits if limit is not None)
        length = len(self.tokenizer(question.lstrip(), add_special_tokens=False)["input_ids"])
        room = window - self.tokenizer.num_special_tokens_to_add(pair=True) - length
        if max_seq_length == window and doc_stride is not None:
            return window, doc_stride  # both were given: prepare_validation_features names them in its errors
        whose = f"--max_seq_length {window}" if max_seq_length == window else f"the model's {window}"
        if room < 1:
            raise PredictError(f"the question has {length} tokens: of {whose} it leaves none for the context")
        if doc_stride is not None and doc_stride >= room:
            raise PredictError(
                f"--doc_stride {doc_stride} has to be less than the {room} tokens that the question leaves of {whose}"
            )
        # At most a third of a window and half of the tokens for the context, so that each window adds enough context.
        return window, min(STRIDE, window // 3, room // 2) if doc_stride is None else doc_stride


def _ranked(context: str, spans: Spans, null: Spans | None) -> list[Answer]:
    """Rank candidates and compute their probabilities; ``null``, "no answer", is always among them."""
    if null is not None:
        spans = Spans.concatenate([spans, null])  # last, so that an answer comes first among equal scores
    order = np.argsort(-spans.scores, kind="stable")
    best = order[:N_BEST_SIZE]
    if null is not None and len(spans.scores) - 1 not in best:
        best = np.append(best, len(spans.scores) - 1)
    if len(best) == 0:
        raise PredictError("the context has no token that could be an answer")
    spans = spans.take(best)
    powers = np.exp((spans.scores - spans.scores.max()).astype(float))
    answers: dict[tuple[int, int], Answer] = {}
    for begin, end, probability in zip(spans.begins, spans.ends, powers / powers.sum(), strict=True):
        place = (int(begin), int(end)) if end > 0 else (None, None)
        # Windows overlap: a span may be found in two of them.
        answers.setdefault((begin, end), Answer(context[begin:end], float(probability), *place))
    return list(answers.values())


def load_predictor(path: str | Path, threads: int | None = None) -> Model:
    """Load a saved model for prediction.

    Args:
        path: see ``tasks/saved_model.py``.
        threads: of ONNX Runtime; its own choice by default.

    Raises:
        PredictError: it does not exist, is none of these, or cannot be loaded.
    """
    saved = open_model(path, AutoModelForQuestionAnswering, OUTPUTS, "answers questions", threads)
    return Model(saved.tokenizer, saved.max_length, saved.run)
