"""Unlabelled text to distill on: files of text become rows of ``QA_FEATURES`` with questions.

A record with a question keeps it. From a paragraph without one, cloze questions are made; their spans are the labels.
"""

import math
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset

from sparsification.tasks.errors import DataError, UsageError
from sparsification.tasks.question_answering.arguments import Flags
from sparsification.tasks.question_answering.cloze import make_clozes
from sparsification.tasks.question_answering.data import table_of_files
from sparsification.tasks.question_answering.records import has_answer_text, qa_record, read_records


def load_distill_file(path: str, seed: int, per_paragraph: int, cache_dir: str | None = None) -> Dataset:
    """Load the questions of ``--distill_file``, which are the same for the same file, seed and number.

    Args:
        path: text, or a file of records with ``context``.
        seed: chooses the cloze questions.
        per_paragraph: maximum number of cloze questions from a paragraph.
        cache_dir: folder of the cache; None: the one of the datasets library.

    Raises:
        DataError: the file is missing or damaged, or no question can be made from it.
    """
    if not os.path.isfile(path):
        raise DataError(f"--distill_file {path}: no such file")
    return table_of_files(_generate, [path], "distill", cache_dir, seed=seed, per_paragraph=per_paragraph)


def check_labels(flags: Flags, questions: Dataset) -> None:
    """Refuse questions without an answer if the recipe uses labels: theirs would be "no answer".

    Raises:
        UsageError: the run would use labels that are missing.
    """
    missing = sum(not has_answer_text(answers) for answers in questions["answers"])
    training = flags.training
    length = math.inf if training.max_steps > 0 else flags.manager.max_epochs or training.num_train_epochs
    if missing and flags.manager.uses_labels(length):
        raise UsageError(
            f"--distill_file {flags.data.distill_file}: {missing} of {len(questions)} questions have no answer, and "
            f"{flags.manager.source} uses labels: set hardness: 1.0 for all epochs in its DistillationModifier, and "
            "prune without sampled gradients"
        )


def _generate(
    paths: list[str], split_name: str, digest: str, seed: int, per_paragraph: int
) -> Iterator[dict[str, Any]]:
    """Yield the questions of the file: its own, and cloze questions from the paragraphs without one."""
    (path,) = paths
    made, number = 0, -1
    known: set[str] = set()
    for number, raw in enumerate(read_texts(path)):
        where = f"{path}, record {number + 1}"
        if str(raw.get("question") or "").strip():
            made += 1
            yield qa_record(raw, where, number, answers_needed=False)
            continue
        row = qa_record(raw | {"question": ""}, where, number, answers_needed=False)
        context = row["context"]
        if context in known:
            continue
        known.add(context)
        # Of the paragraph, not of its place: text that is added elsewhere changes no question.
        for cloze in make_clozes(context, per_paragraph, random.Random(f"{seed} {context}")):
            made += 1
            answers = {"text": [cloze.answer], "answer_start": [cloze.start]}
            yield row | {"id": f"cloze {made}", "question": cloze.question, "answers": answers}
    if made == 0:
        raise DataError(f"{path}: no question could be made from its {number + 1} paragraphs")


def read_texts(path: str) -> Iterator[dict[str, Any]]:
    """Yield the records of a file; those of text have a ``context`` alone."""
    if Path(path).suffix.lower() != ".txt":
        yield from read_records(path, questions_needed=False)
        return
    try:
        text = Path(path).read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})") from error
    blocks = re.split(r"\n[^\S\n]*\n\s*", text)
    for paragraph in blocks if len(blocks) > 1 else text.split("\n"):
        yield {"context": " ".join(paragraph.split())}
