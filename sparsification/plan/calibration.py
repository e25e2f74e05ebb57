"""Calibration data of a plan: texts or questions of a file as features without labels."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from sparsification.model_io import input_names
from sparsification.plan.apply import BATCH_SIZE
from sparsification.plan.units import PlanError
from sparsification.tasks.question_answering.unlabelled import read_texts

Row = dict[str, list[int]]


def read_rows(
    path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, length: int
) -> list[Row]:
    """Draw examples from a file, the same ones each time.

    Args:
        path: text with a paragraph on each line, or records with ``context`` and perhaps ``question``.
        model: whose inputs the rows are.
        tokenizer: of the model.
        count: examples; fewer if the file has fewer.
        length: tokens of an example at most.

    Raises:
        PlanError: the file does not exist, or has no text.
        DataError: the file is damaged, or of no known format.
    """
    if not path.is_file():
        raise PlanError(f"--data {path}: no such file")
    records = list(read_texts(str(path)))
    pairs = [[str(record.get(key) or "").strip() for key in ("question", "context")] for record in records]
    texts = [[part for part in pair if part] for pair in pairs if any(pair)]
    if not texts:
        raise PlanError(f"--data {path}: there is no text in it")
    names = input_names(model, tokenizer)
    chosen = random.Random(0).sample(texts, min(count, len(texts)))
    encoded = [tokenizer(*parts, truncation=True, max_length=length) for parts in chosen]
    return [{name: row[name] for name in names} for row in encoded]


def as_batches(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[Mapping[str, Tensor]]:
    """Pad rows to batches of about the same length."""
    ordered = sorted(rows, key=lambda row: len(row["input_ids"]))
    parts = [ordered[first : first + BATCH_SIZE] for first in range(0, len(ordered), BATCH_SIZE)]
    return [dict(tokenizer.pad(part, return_tensors="pt")) for part in parts]
