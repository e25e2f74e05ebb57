"""The Trainer of question answering that trains with a recipe."""

from sparsification.tasks.question_answering.trainer import QuestionAnsweringTrainer
from sparsification.trainer.mixin import SparseTrainerMixin


class SparseQuestionAnsweringTrainer(SparseTrainerMixin, QuestionAnsweringTrainer):
    """Trains by a recipe, evaluates by answers."""
