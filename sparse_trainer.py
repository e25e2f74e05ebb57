"""Trainers that train with a recipe: the one of question answering, and the mixin for any other."""

from sparsification.tasks.question_answering.sparse_trainer import SparseQuestionAnsweringTrainer
from sparsification.trainer.mixin import SparseTrainerMixin

__all__ = ["SparseQuestionAnsweringTrainer", "SparseTrainerMixin"]
