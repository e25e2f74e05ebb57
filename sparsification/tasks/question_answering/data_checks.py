"""Checks of question-answering data against the flags, before features are made."""

import logging

from datasets import Dataset

from sparsification.tasks.errors import DataError
from sparsification.tasks.question_answering.records import has_answer_text

logger = logging.getLogger(__name__)


def check_answers(examples: Dataset, version_2_with_negative: bool) -> None:
    """Refuse to train where no question has an answer; warn where some have none and none was announced.

    Raises:
        DataError: no question has an answer.
    """
    missing = sum(not has_answer_text(answers) for answers in examples["answers"])
    if missing == len(examples):
        raise DataError(f"none of the {missing} training questions has an answer")
    if missing and not version_2_with_negative:
        logger.warning(
            f"{missing} of {len(examples)} training questions have no answer; "
            "--version_2_with_negative is meant for such data"
        )


def check_references(examples: Dataset, version_2_with_negative: bool, metric: str | None) -> None:
    """Refuse questions whose answers cannot be scored as the flags ask.

    Args:
        examples: questions with their true answers.
        version_2_with_negative: whether some of them may have none.
        metric: what decides which checkpoint is the best, if anything does.

    Raises:
        DataError: questions without answers that were not announced, or no question of those that the metric is about.
    """
    missing = sum(not has_answer_text(answers) for answers in examples["answers"])
    name = (metric or "").removeprefix("eval_")
    if version_2_with_negative:
        for group, count in (("HasAns_", len(examples) - missing), ("NoAns_", missing)):
            if name.startswith(group) and count == 0:
                raise DataError(f"--metric_for_best_model {metric}: there is no such question in the evaluation data")
    elif 0 < missing < len(examples):
        raise DataError(
            f"{missing} of {len(examples)} questions of the evaluation data have no answer: with "
            "--version_2_with_negative they count as questions that should get none"
        )
    elif missing and metric is not None:
        raise DataError(f"--metric_for_best_model {metric}: no question of the evaluation data has an answer to score")


def check_ids(examples: Dataset) -> None:
    """Refuse questions that share an id, because answers go by it.

    Raises:
        DataError: an id occurs twice.
    """
    seen: set[str] = set()
    for example_id in examples["id"]:
        if example_id in seen:
            raise DataError(f"two questions have the id '{example_id}'; every question needs its own")
        seen.add(example_id)
