"""Data of token classification: words and their tags become features with one label for each token.

A record holds the words of a sentence and one tag for each. In CSV files, whose fields are text, both are JSON lists or
texts whose parts are separated by blanks.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from datasets import ClassLabel, DatasetDict, List
from transformers import PreTrainedTokenizerBase

from sparsification.tasks.errors import DataError

IGNORED = -100  # label of a token that neither the loss nor the scores count


def find_column(splits: DatasetDict, given: str | None, usual: Sequence[str], what: str) -> str:
    """Find a column of the data.

    Args:
        splits: the data; the first split is looked at.
        given: name of the column; None takes the first of ``usual`` that is there.
        usual: names that such a column has in well-known data sets.
        what: what it holds, for messages.

    Raises:
        DataError: there is no such column.
    """
    names = next(iter(splits.values())).column_names
    found = [name for name in ([given] if given is not None else usual) if name in names]
    if not found:
        wanted = f"'{given}'" if given is not None else " or ".join(f"'{name}'" for name in usual)
        raise DataError(f"the data needs a column {wanted} of {what}, it has {', '.join(names)}")
    return found[0]


def read_words(
    splits: DatasetDict, words: str, tags: str, known_names: Sequence[str] = ()
) -> tuple[DatasetDict, list[str]]:
    """Bring the columns of words and of tags into lists, and the tags into numbers.

    Args:
        splits: the data.
        words: name of the column of words.
        tags: name of the column of tags: class numbers of the data set, or names.
        known_names: the tags' names in the order of the model's labels, which is kept if it has all of the data's.

    Returns:
        The data with the columns ``words`` and ``tags`` alone; and the tags' names, in the order of their numbers.

    Raises:
        DataError: a record has not as many tags as words.
    """
    feature = next(iter(splits.values())).features[tags]
    classes = feature.feature.names if isinstance(feature, List) and isinstance(feature.feature, ClassLabel) else None
    read = {
        split: data.map(
            _read_record,
            with_indices=True,
            fn_kwargs={"split": split, "words": words, "tags": tags, "classes": classes},
            remove_columns=data.column_names,
        )
        for split, data in splits.items()
    }
    names = classes or sorted({tag for data in read.values() for row in data["tags"] for tag in row})
    if set(names) <= set(known_names):
        names = list(known_names)
    numbers = {name: number for number, name in enumerate(names)}
    numbered = {split: data.map(_number_tags, fn_kwargs={"numbers": numbers}) for split, data in read.items()}
    return DatasetDict(numbered), names


def _read_record(
    row: Mapping[str, Any], index: int, split: str, words: str, tags: str, classes: list[str] | None
) -> dict[str, list[str]]:
    lists = {"words": _as_list(row[words]), "tags": _as_list(row[tags])}
    if len(lists["words"]) != len(lists["tags"]):
        raise DataError(
            f"{split} data, record {index + 1}: {len(lists['words'])} words in '{words}' and {len(lists['tags'])} tags "
            f"in '{tags}'; every word needs one tag"
        )
    lists["tags"] = [str(tag) if classes is None else classes[tag] for tag in lists["tags"]]
    return lists


def _number_tags(row: Mapping[str, list[str]], numbers: Mapping[str, int]) -> dict[str, list[int]]:
    return {"tags": [numbers[tag] for tag in row["tags"]]}


def _as_list(value: Any) -> list:
    """Read a list from a field of a CSV file; a list stays as it is."""
    if not isinstance(value, str):
        return list(value)
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            pass  # a sentence that begins with a bracket
    return value.split()


def make_encode(
    tokenizer: PreTrainedTokenizerBase, names: Sequence[str], settings: Mapping[str, Any], label_all: bool = False
) -> Callable[[Mapping[str, list]], Mapping[str, list]]:
    """Make the function that tokenizes words, and gives each token the label of its word.

    Args:
        tokenizer: a fast tokenizer.
        names: the tags' names.
        settings: truncation and padding, as arguments of the tokenizer; words that are cut off are neither trained nor
            scored.
        label_all: whether the further tokens of a word are labelled, too: with the word's tag, B- as I- where there is
            such a tag. Otherwise the first token alone is labelled.

    Returns:
        A function of records with the columns ``words`` and ``tags`` of ``read_words``, which returns the tokenizer's
        columns and ``labels``, ``IGNORED`` for tokens that are not labelled.
    """
    further = [_inside(number, names) if label_all else IGNORED for number in range(len(names))]

    def encode(rows: Mapping[str, list]) -> Mapping[str, list]:
        encoded = tokenizer(rows["words"], is_split_into_words=True, **settings)
        encoded["labels"] = []
        for index, tags in enumerate(rows["tags"]):
            owners = encoded.word_ids(index)
            encoded["labels"].append(
                [
                    IGNORED if owner is None else further[tags[owner]] if owner == before else tags[owner]
                    for before, owner in zip([None, *owners[:-1]], owners, strict=True)
                ]
            )
        return encoded

    return encode


def _inside(number: int, names: Sequence[str]) -> int:
    """Number of the tag that continues an entity."""
    inside = "I-" + names[number].removeprefix("B-")
    return names.index(inside) if names[number].startswith("B-") and inside in names else number
