"""What a saved model of a task predicts, and how its predictions are scored and compared with those of another one.

Each task has a ``Predictor`` in its folder; ``tasks/predict.py`` finds the one of a model.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from sparsification.tasks.arguments import load_file, string_columns
from sparsification.tasks.errors import DataError
from sparsification.tasks.saved_model import SavedModel

Prediction = Mapping[str, Any]  # of one record, as it is printed in JSON


@dataclass(frozen=True)
class Records:
    """The records of a data file."""

    inputs: Sequence[tuple[str, ...]]  # the texts of each record, as ``predict`` takes them
    labels: Sequence[Any] | None  # what is right, as the task's ``scores`` takes it; None: not known


class Predictor(ABC):
    """Predictions of one model."""

    main_metric: str  # of ``scores``, which --min_metric is compared with
    verdict: str  # what is equal in ``agreement``, for the report

    def __init__(self, model: SavedModel, max_length: int | None = None) -> None:
        self.model = model
        self.max_length = model.limit(max_length)  # tokens of a text, longer ones are cut off

    def texts_of(self, data: Dataset) -> list[tuple[str, ...]]:
        """The texts of records: those of the first column of texts."""
        name = next(iter(string_columns(data)), None)
        if name is None:
            raise DataError(f"the data needs a column of texts, it has {', '.join(data.column_names)}")
        return [(text or "",) for text in data[name]]

    def read(self, file: Path) -> Records:
        """Read a data file; without labels unless the task overrides this."""
        data = load_file(str(file))
        if len(data) == 0:
            raise DataError(f"{file} has no records")
        return Records(self.texts_of(data), None)

    def text_of(self, texts: tuple[str, ...]) -> str:
        """The texts of a record in one line."""
        return " | ".join(texts)

    @abstractmethod
    def predict(self, inputs: Sequence[tuple[str, ...]]) -> list[Prediction]:
        """Predict for texts.

        Args:
            inputs: the texts of each record.

        Raises:
            PredictError: the model cannot take them.
        """

    @abstractmethod
    def scores(self, records: Records, found: Sequence[Prediction]) -> dict[str, float]:
        """Metrics of predictions for records with labels."""

    @abstractmethod
    def agreement(self, found: Sequence[Prediction], other: Sequence[Prediction]) -> np.ndarray:
        """How far two models agree on each record, (records,), in [0, 1]."""

    @abstractmethod
    def difference(self, found: Prediction, other: Prediction) -> float:
        """How far two predictions for a record are apart; larger is worse."""

    @abstractmethod
    def show(self, found: Prediction) -> str:
        """A prediction in a few words."""
