"""The Trainer of question answering, under the name of the well-known script."""

from sparsification.tasks.question_answering.trainer import QuestionAnsweringTrainer

__all__ = ["QuestionAnsweringTrainer"]
