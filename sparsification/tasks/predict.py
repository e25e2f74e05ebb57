"""Predictions of a saved model, whose task is in its configuration."""

from pathlib import Path

from sparsification.tasks.embedding import predictor as embedding
from sparsification.tasks.predictor import Predictor
from sparsification.tasks.question_answering import predictor as question_answering
from sparsification.tasks.saved_model import PredictError, architecture, find_model
from sparsification.tasks.text_classification import predictor as text_classification
from sparsification.tasks.token_classification import predictor as token_classification

# Ends of the names of architectures, and what loads such a model. Encoders without a head make embeddings.
LOADERS = {
    "ForQuestionAnswering": question_answering.load,
    "ForQuestionAnsweringSimple": question_answering.load,
    "ForSequenceClassification": text_classification.load,
    "ForTokenClassification": token_classification.load,
    "Model": embedding.load,
}


def load_predictor(path: str | Path, max_length: int | None = None, threads: int | None = None) -> Predictor:
    """Load a saved model of any task.

    Args:
        path: see ``tasks/saved_model.py``.
        max_length: tokens of a text, longer ones are cut off; None: the model's maximum.
        threads: of ONNX Runtime; its own choice by default.

    Raises:
        PredictError: it cannot be loaded, or its task is not known.
    """
    _, folder = find_model(path)
    name = architecture(folder)
    load = next((load for end, load in LOADERS.items() if name.endswith(end)), None)
    if load is None:
        raise PredictError(
            f"{path}: the architecture in its config.json must end in one of {', '.join(LOADERS)}, got {name or 'none'}"
        )
    return load(path, max_length, threads)
