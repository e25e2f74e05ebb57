"""Checks of question-answering data against the flags, before features are made."""

import logging

from datasets import Dataset

from sparsification.tasks.errors import DataError
from sparsification.tasks.question_answering.records import has_answer_text

logger = logging.getLogger(__name__)


def check_answers(examples: Dataset, version_2_with_negative: bool) -> None:
    """Refuse to train on questions without any answer; warn if some have none without ``--version_2_with_negative``.

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
    """Refuse questions whose answers cannot be scored with these flags.

    Args:
        examples: questions with their true answers.
        version_2_with_negative: whether some of them may have none.
        metric: metric that decides which checkpoint is the best, if there is one.

    Raises:
        DataError: some questions have no answer and the flags do not allow it, or the metric has nothing to score.
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
    """Refuse questions with the same id, because answers are stored by id.

    Raises:
        DataError: an id occurs twice.
    """
    seen: set[str] = set()
    for example_id in examples["id"]:
        if example_id in seen:
            raise DataError(f"two questions have the id '{example_id}'; ids must be unique")
        seen.add(example_id)
