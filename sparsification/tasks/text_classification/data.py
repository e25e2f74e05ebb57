"""Data of text classification and regression: the columns of texts, and labels as numbers.

The rules are those of Transformers' ``run_glue.py``: labels that are floating-point numbers mean regression, by a model
with one label, whose loss is the squared error; all others are the names of classes. A model that has one label, such
as a reranker, keeps it, also for labels 0 and 1.
"""

from collections.abc import Sequence

from datasets import ClassLabel, Dataset, DatasetDict, Value

from sparsification.tasks.arguments import string_columns
from sparsification.tasks.errors import DataError

LABEL = "label"
PAIR = ("sentence1", "sentence2")
_NO_LABEL = (None, -1, "-1")  # -1: GLUE's test sets


def text_columns(data: Dataset, named: Sequence[str] | None = None) -> list[str]:
    """Find the one or two columns of texts.

    Args:
        data: the records.
        named: the columns that the user names; None: ``sentence1`` and ``sentence2``, or the first two columns of texts
            that are no labels.

    Raises:
        DataError: a named column is missing, or there is no column of texts.
    """
    texts = [name for name in string_columns(data) if name != LABEL]
    wanted = list(named) if named is not None else list(PAIR) if set(PAIR) <= set(texts) else texts[:2]
    if not set(wanted) <= set(texts) or not 1 <= len(wanted) <= 2:
        asked = f"--text_column_names {','.join(wanted)}" if named is not None else "the data"
        raise DataError(f"{asked}: expected one or two columns of texts, there are {', '.join(texts) or 'none'}")
    return wanted


def number_labels(
    splits: DatasetDict, known_names: Sequence[str], column: str = LABEL
) -> tuple[DatasetDict, list[str] | None]:
    """Make the labels numbers, in a column ``label``.

    Args:
        splits: the data. The test data may lack labels, or have -1 in their place; it then gets no column.
        known_names: the names of the model's labels, whose order is kept if it has all of the data's.
        column: of the labels.

    Returns:
        The data; and the names of the classes in the order of their numbers, None for regression.

    Raises:
        DataError: there is no such column, or a label is missing or no number in regression.
    """
    labelled = {split: data for split, data in splits.items() if column in data.column_names}
    for split, data in splits.items():
        if split not in labelled and not split.startswith("test"):
            raise DataError(f"the {split} data needs a column '{column}', it has {', '.join(data.column_names)}")
    one_label = len(known_names) == 1
    if not labelled:
        return splits, None if one_label else list(known_names)
    feature = next(iter(labelled.values())).features[column]
    classes = feature.names if isinstance(feature, ClassLabel) else None
    regression = "float" in feature.dtype or (one_label and "int" in feature.dtype and classes is None)

    values: dict[str, list] = {}
    for split, data in labelled.items():
        found = [None if label in _NO_LABEL and not regression else label for label in data[column]]
        if None not in found:
            values[split] = [classes[label] if classes else label for label in found]
        elif not split.startswith("test"):
            raise DataError(f"the {split} data, record {found.index(None) + 1}, has no label in '{column}'")
    names = classes or sorted({str(label) for labels in values.values() for label in labels}, key=_numbers_first)
    if set(names) <= set(known_names):
        names = list(known_names)
    numbers = {name: number for number, name in enumerate(names)}
    numbered = {}
    for split, data in splits.items():
        rest = data.remove_columns([name for name in {column, LABEL} if name in data.column_names])
        if split in values:
            try:
                own = [float(label) if regression else numbers[str(label)] for label in values[split]]
            except ValueError as error:
                raise DataError(f"the {split} data: labels must be numbers in regression: {error}") from error
            rest = rest.add_column(LABEL, own, feature=Value("float32" if regression else "int64"))
        numbered[split] = rest
    return DatasetDict(numbered), None if regression else names


def _numbers_first(name: str) -> tuple[float, str]:
    """Sort key: numbers by their values, then texts."""
    return (float(name), "") if name.lstrip("-").isdecimal() else (float("inf"), name)
