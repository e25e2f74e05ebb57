"""Labels of texts, or of pairs of texts, by a saved classifier; scores by a model of one label."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import AutoModelForSequenceClassification

from sparsification.tasks.arguments import load_file
from sparsification.tasks.predictor import Prediction, Predictor, Records
from sparsification.tasks.saved_model import SavedModel, open_model
from sparsification.tasks.text_classification.data import LABEL, number_labels, text_columns
from sparsification.tasks.text_classification.metrics import scores


class TextClassifier(Predictor):
    """Predicts {"label", "score", "scores"}: the likeliest label, its probability, and those of all labels.

    A model of one label predicts {"score"}, its output as it is.
    """

    verdict = "labels"

    def __init__(self, model: SavedModel, max_length: int | None = None) -> None:
        super().__init__(model, max_length)
        self.names = model.labels
        self.main_metric = "pearson" if len(self.names) == 1 else "accuracy"

    def texts_of(self, data: Dataset) -> list[tuple[str, ...]]:
        columns = text_columns(data)
        return list(zip(*(data[name] for name in columns), strict=True))

    def read(self, file: Path) -> Records:
        data = load_file(str(file))
        if LABEL not in data.column_names:
            return Records(self.texts_of(data), None)
        numbered, _ = number_labels(DatasetDict({"test": data}), self.names)
        labels = numbered["test"][LABEL] if LABEL in numbered["test"].column_names else None
        return Records(self.texts_of(data), labels)

    def predict(self, inputs: Sequence[tuple[str, ...]]) -> list[Prediction]:
        found: list[Prediction] = []
        for (logits,) in self.model.outputs(inputs, self.max_length):
            if len(self.names) == 1:
                found.append({"score": float(logits[0])})
                continue
            powers = np.exp(logits - logits.max())
            shares = dict(zip(self.names, (powers / powers.sum()).tolist(), strict=True))
            best = max(shares, key=lambda name: shares[name])
            found.append({"label": best, "score": shares[best], "scores": shares})
        return found

    def scores(self, records: Records, found: Sequence[Prediction]) -> dict[str, float]:
        values = [[one["score"]] if len(self.names) == 1 else list(one["scores"].values()) for one in found]
        return scores(np.array(values), np.array(records.labels))

    def agreement(self, found: Sequence[Prediction], other: Sequence[Prediction]) -> np.ndarray:
        if len(self.names) > 1:
            return np.array([one["label"] == two["label"] for one, two in zip(found, other, strict=True)], float)
        # A score has no label: the share of the other records that both put on the same side of this one.
        first, second = (np.array([one["score"] for one in each]) for each in (found, other))
        same = np.sign(first[:, None] - first) == np.sign(second[:, None] - second)
        return (same.sum(axis=1) - 1) / max(len(first) - 1, 1)

    def difference(self, found: Prediction, other: Prediction) -> float:
        if len(self.names) == 1:
            return abs(found["score"] - other["score"])
        return max(abs(found["scores"][name] - other["scores"][name]) for name in self.names)

    def show(self, found: Prediction) -> str:
        return f"{found['score']:.4f}" if len(self.names) == 1 else f"{found['label']} ({found['score']:.1%})"


def load(path: str | Path, max_length: int | None = None, threads: int | None = None) -> TextClassifier:
    """Load a saved classifier; arguments as for ``tasks.predict.load_predictor``."""
    saved = open_model(path, AutoModelForSequenceClassification, ["logits"], "classifies texts", threads)
    return TextClassifier(saved, max_length)
