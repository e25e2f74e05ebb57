"""Features, answers and metrics of question answering, under the names of the well-known script."""

from sparsification.tasks.question_answering.answers import postprocess_qa_predictions
from sparsification.tasks.question_answering.features import prepare_train_features, prepare_validation_features
from sparsification.tasks.question_answering.metrics import squad_metrics, squad_v2_metrics

__all__ = [
    "postprocess_qa_predictions",
    "prepare_train_features",
    "prepare_validation_features",
    "squad_metrics",
    "squad_v2_metrics",
]
