"""Answers to the questions of a file by a saved model, for the comparison of two models."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from transformers import AutoModelForQuestionAnswering

from sparsification.tasks.predictor import Prediction, Predictor, Records
from sparsification.tasks.question_answering.data import load_qa_dataset
from sparsification.tasks.question_answering.metrics import normalize_answer, squad_metrics
from sparsification.tasks.question_answering.predict import OUTPUTS, Model
from sparsification.tasks.saved_model import SavedModel, open_model


class QuestionAnswerer(Predictor):
    """Predicts {"answer", "probability", "start", "end"} for pairs of a question and its context."""

    verdict = "answers"
    main_metric = "f1"

    def __init__(self, model: SavedModel, max_length: int | None = None) -> None:
        super().__init__(model, max_length)
        self.asked_length = max_length
        self.answers = Model(model.tokenizer, model.max_length, model.run)

    def read(self, file: Path) -> Records:
        data = load_qa_dataset(None, None, {"validation": str(file)})["validation"]
        labels = [list(answers["text"]) for answers in data["answers"]]
        inputs = list(zip(data["question"], data["context"], strict=True))
        return Records(inputs, labels if all(labels) else None)

    def predict(self, inputs: Sequence[tuple[str, ...]]) -> list[Prediction]:
        answers = self.answers.answer
        return [vars(answers(question, context, max_seq_length=self.asked_length)[0]) for question, context in inputs]

    def scores(self, records: Records, found: Sequence[Prediction]) -> dict[str, float]:
        predicted = [{"id": str(row), "prediction_text": one["answer"]} for row, one in enumerate(found)]
        references = [{"id": str(row), "answers": {"text": texts}} for row, texts in enumerate(records.labels or [])]
        return squad_metrics(predicted, references)

    def agreement(self, found: Sequence[Prediction], other: Sequence[Prediction]) -> np.ndarray:
        pairs = zip(found, other, strict=True)
        return np.array(
            [normalize_answer(one["answer"]) == normalize_answer(two["answer"]) for one, two in pairs], float
        )

    def difference(self, found: Prediction, other: Prediction) -> float:
        changed = normalize_answer(found["answer"]) != normalize_answer(other["answer"])
        return found["probability"] if changed else abs(found["probability"] - other["probability"]) / 2

    def show(self, found: Prediction) -> str:
        return f"{found['answer'] or 'no answer'} ({found['probability']:.1%})"


def load(path: str | Path, max_length: int | None = None, threads: int | None = None) -> QuestionAnswerer:
    """Load a saved model; arguments as for ``tasks.predict.load_predictor``."""
    saved = open_model(path, AutoModelForQuestionAnswering, OUTPUTS, "answers questions", threads)
    return QuestionAnswerer(saved, max_length)
