"""Embeddings of texts by a saved encoder, with its own pooling and normalization."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel

from sparsification.tasks.arguments import load_file
from sparsification.tasks.embedding.data import retrieval_texts, text_columns, without_blanks
from sparsification.tasks.embedding.metrics import TOP, normalized, retrieval_scores
from sparsification.tasks.embedding.modules import MODULES_FILE, load_modules
from sparsification.tasks.embedding.trainer import HIDDEN
from sparsification.tasks.errors import DataError
from sparsification.tasks.predictor import Prediction, Predictor, Records
from sparsification.tasks.saved_model import SavedModel, open_model


class Embedder(Predictor):
    """Predicts {"embedding"}, a list of numbers.

    A data file with two columns of texts has questions and the texts that answer them; its records are the questions,
    then the texts, each once.
    """

    verdict = f"the {TOP} nearest texts"
    main_metric = f"mrr_at_{TOP}"

    def __init__(self, model: SavedModel, max_length: int | None = None) -> None:
        # optimum-onnx writes a configuration beside its file, but sentence-transformers' files stay above.
        places = (model.folder, model.folder.parent)
        self.modules = load_modules(next((at for at in places if (at / MODULES_FILE).is_file()), model.folder))
        super().__init__(model, model.limit(max_length, self.modules.max_length))

    def read(self, file: Path) -> Records:
        data = load_file(str(file))
        try:
            columns = text_columns(data, count=2)
        except DataError:  # one column: texts alone
            columns = text_columns(data)
        data = without_blanks(data, columns)
        if len(columns) == 1:
            return Records([(text,) for text in data[columns[0]]], None)
        queries, texts, right = retrieval_texts(data, columns)
        return Records([(text,) for text in [*queries, *texts]], right.tolist())

    def predict(self, inputs: Sequence[tuple[str, ...]]) -> list[Prediction]:
        found: list[Prediction] = [{}] * len(inputs)
        for rows, features in self.model.batches([(text.strip(),) for text, *_ in inputs], self.max_length):
            (hidden,) = self.model.run(features)
            embedded = self.modules.embed(torch.from_numpy(hidden), torch.from_numpy(features["attention_mask"]))
            for row, values in zip(rows, embedded.tolist(), strict=True):
                found[row] = {"embedding": values}
        return found

    def scores(self, records: Records, found: Sequence[Prediction]) -> dict[str, float]:
        right, vectors = np.array(records.labels), _vectors(found)
        return retrieval_scores(vectors[: len(right)], vectors[len(right) :], right)

    def agreement(self, found: Sequence[Prediction], other: Sequence[Prediction]) -> np.ndarray:
        """Share of the nearest texts of each text, itself left out, that are the same ones."""
        nearest = []
        for vectors in (_vectors(found), _vectors(other)):
            similar = vectors @ vectors.T
            np.fill_diagonal(similar, -np.inf)
            nearest.append(np.argsort(-similar, axis=1, kind="stable")[:, : min(TOP, len(vectors) - 1)])
        return np.array([np.isin(one, two).mean() if len(one) else 1.0 for one, two in zip(*nearest, strict=True)])

    def difference(self, found: Prediction, other: Prediction) -> float:
        one, two = _vectors([found, other])
        return 1 - float(one @ two)

    def show(self, found: Prediction) -> str:
        return f"{len(found['embedding'])} numbers"


def _vectors(found: Sequence[Prediction]) -> np.ndarray:
    """Embeddings of length 1, (records, width)."""
    return normalized(np.array([one["embedding"] for one in found]))


def load(path: str | Path, max_length: int | None = None, threads: int | None = None) -> Embedder:
    """Load a saved encoder; arguments as for ``tasks.predict.load_predictor``."""
    return Embedder(open_model(path, AutoModel, [HIDDEN], "embeds texts", threads), max_length)
