"""Trainer of question answering with a recipe."""

from sparsification.tasks.question_answering.trainer import QuestionAnsweringTrainer
from sparsification.trainer.mixin import SparseTrainerMixin


class SparseQuestionAnsweringTrainer(SparseTrainerMixin, QuestionAnsweringTrainer):
    """Trains with a recipe, and evaluates answers."""
