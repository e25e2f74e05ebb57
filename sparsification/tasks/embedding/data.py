"""Texts of sentence embeddings: raw text, pairs or triplets, and questions with the texts that answer them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from sparsification.tasks.arguments import string_columns
from sparsification.tasks.errors import DataError

GROUP = ("anchor", "positive", "negative")


def text_columns(data: Dataset, named: Sequence[str] | None = None, count: int | None = None) -> list[str]:
    """Find the columns of texts.

    Args:
        data: the records.
        named: the columns that the user names.
        count: how many are needed: the first ones; None: ``anchor``, ``positive`` and perhaps ``negative``, or else the
            first column alone.

    Raises:
        DataError: a named column is missing, or there are too few.
    """
    texts = string_columns(data)
    group = [name for name in GROUP if name in texts]
    found = list(named) if named is not None else group if len(group) > 1 else texts
    if named is None and (count is not None or len(group) < 2):
        found = found[: count or 1]
    if not set(found) <= set(texts) or not 1 <= len(found) <= len(GROUP) or len(found) < (count or 1):
        raise DataError(
            f"expected {count or '1 to 3'} columns of texts{' named ' + ','.join(named) if named else ''}, "
            f"there are {', '.join(texts) or 'none'}"
        )
    return found


def without_blanks(data: Dataset, columns: Sequence[str]) -> Dataset:
    """Leave out records one of whose texts is empty, such as the blank lines of a text file.

    Raises:
        DataError: no record is left.
    """
    found = data.filter(lambda row: all((row[column] or "").strip() for column in columns))
    if len(found) == 0:
        raise DataError(f"no record has a text in {', '.join(columns)}")
    return found


def make_encode(
    tokenizer: PreTrainedTokenizerBase, columns: Sequence[str], settings: Mapping[str, Any]
) -> Callable[[Mapping[str, list]], Mapping[str, list]]:
    """Make the function that tokenizes the texts of records.

    Args:
        tokenizer: the model's.
        columns: of texts; the features of several are lists with one entry for each.
        settings: truncation and padding, as arguments of the tokenizer.
    """

    def encode(rows: Mapping[str, list]) -> Mapping[str, list]:
        parts = [tokenizer([text.strip() for text in rows[column]], **settings) for column in columns]
        if len(parts) == 1:
            return dict(parts[0])
        return {name: list(map(list, zip(*(part[name] for part in parts), strict=True))) for name in parts[0]}

    return encode


def retrieval_texts(pairs: Dataset, columns: Sequence[str]) -> tuple[list[str], list[str], np.ndarray]:
    """Split pairs of a question and the text that answers it.

    Args:
        pairs: the records.
        columns: of the questions, and of the texts.

    Returns:
        The questions; the texts, each once; and the index of the right text of each question.
    """
    queries, answers = (list(pairs[column]) for column in columns)
    texts = list(dict.fromkeys(answers))
    numbers = {text: number for number, text in enumerate(texts)}
    return queries, texts, np.array([numbers[text] for text in answers])
