"""Labels and texts of classification data: Transformers' rules, and what is refused."""

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from sparsification.tasks.errors import DataError
from sparsification.tasks.text_classification.data import number_labels, text_columns

DEFAULT = ["LABEL_0", "LABEL_1"]


def splits(train: list, **others: list | None) -> DatasetDict:
    columns = {"train": train, **others}
    return DatasetDict(
        {
            split: Dataset.from_dict({"text": ["a"] * (len(labels or [0]))} | ({"label": labels} if labels else {}))
            for split, labels in columns.items()
        }
    )


@pytest.mark.parametrize(
    ("labels", "known", "names", "numbers"),
    [
        (["b", "a", "b"], DEFAULT, ["a", "b"], [1, 0, 1]),
        ([10, 9, 10], DEFAULT, ["9", "10"], [1, 0, 1]),
        (["b", "a", "b"], ["c", "b", "a"], ["c", "b", "a"], [1, 2, 1]),  # the model's order
    ],
)
def test_classes_are_numbered(labels, known, names, numbers):
    numbered, found = number_labels(splits(labels), known)
    assert (found, list(numbered["train"]["label"])) == (names, numbers)


def test_class_labels_of_a_data_set_get_the_models_numbers():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["no", "yes"])})
    data = Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, features=features)
    numbered, names = number_labels(DatasetDict({"train": data}), ["yes", "no"])
    assert (names, list(numbered["train"]["label"])) == (["yes", "no"], [1, 0])


@pytest.mark.parametrize(("labels", "known"), [([0.5, 1.0], DEFAULT), ([0, 1], ["LABEL_0"])])
def test_floats_and_models_with_one_label_mean_regression(labels, known):
    numbered, names = number_labels(splits(labels), known)
    assert names is None
    assert numbered["train"].features["label"].dtype == "float32"
    assert list(numbered["train"]["label"]) == labels


@pytest.mark.parametrize("test_labels", [None, [-1, -1]])
def test_test_data_may_lack_labels(test_labels):
    numbered, names = number_labels(splits([0, 1], test=test_labels), DEFAULT)
    assert names == ["0", "1"]
    assert numbered["test"].column_names == ["text"]


def test_the_column_of_labels_can_have_another_name():
    data = splits(["b", "a"]).rename_column("label", "kind")
    numbered, _ = number_labels(data, DEFAULT, "kind")
    assert numbered["train"].column_names == ["text", "label"]


def test_missing_labels_are_refused():
    with pytest.raises(DataError, match="the validation data needs a column 'label', it has text"):
        number_labels(splits([0, 1], validation=None), DEFAULT)
    with pytest.raises(DataError, match="the train data, record 2, has no label"):
        number_labels(splits(["a", None]), DEFAULT)
    with pytest.raises(DataError, match="labels must be numbers in regression"):
        number_labels(splits([0.5, 1.0], validation=["x"]), DEFAULT)


@pytest.mark.parametrize(
    ("columns", "named", "expected"),
    [
        (["sentence", "idx"], None, ["sentence"]),
        (["question", "text", "more"], None, ["question", "text"]),
        (["other", "sentence1", "sentence2"], None, ["sentence1", "sentence2"]),
        (["a", "b"], ["b"], ["b"]),
    ],
)
def test_text_columns(columns, named, expected):
    values = {name: [1] if name == "idx" else ["x"] for name in columns}
    assert text_columns(Dataset.from_dict(values | {"label": ["y"]}), named) == expected


def test_wrong_text_columns_are_refused():
    data = Dataset.from_dict({"a": ["x"], "label": [0]})
    with pytest.raises(DataError, match="--text_column_names a,b: expected one or two columns of texts, there are a"):
        text_columns(data, ["a", "b"])
    with pytest.raises(DataError, match="the data: expected one or two columns of texts, there are none"):
        text_columns(data.remove_columns("a"))
