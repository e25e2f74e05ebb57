"""Columns of texts, groups of texts, and questions with the texts that answer them."""

import pytest
from datasets import Dataset

from sparsification.tasks.embedding.data import make_encode, retrieval_texts, text_columns, without_blanks
from sparsification.tasks.errors import DataError


def data(**columns) -> Dataset:
    return Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("names", "named", "count", "expected"),
    [
        (["text"], None, None, ["text"]),
        (["title", "text"], None, None, ["title"]),
        (["anchor", "positive"], None, None, ["anchor", "positive"]),
        (["negative", "positive", "anchor"], None, None, ["anchor", "positive", "negative"]),
        (["a", "b", "c"], ["c", "a"], None, ["c", "a"]),
        (["question", "answer", "more"], None, 2, ["question", "answer"]),
    ],
)
def test_text_columns(names, named, count, expected):
    assert text_columns(data(**{name: ["x"] for name in names}), named, count) == expected


def test_wrong_columns_are_refused():
    with pytest.raises(DataError, match="expected 2 columns of texts, there are text"):
        text_columns(data(text=["a"], number=[1]), count=2)
    with pytest.raises(DataError, match="expected 1 to 3 columns of texts named a,b, there are a"):
        text_columns(data(a=["x"]), ["a", "b"])
    with pytest.raises(DataError, match="no record has a text in text"):
        without_blanks(data(text=["", " "]), ["text"])


def test_blank_lines_are_left_out():
    assert list(without_blanks(data(text=["a", "", None, "b"]), ["text"])["text"]) == ["a", "b"]


def test_several_texts_become_lists_of_features(tiny_tokenizer):
    rows = make_encode(tiny_tokenizer, ["a", "b"], {})({"a": ["is "], "b": ["Oslo is"]})
    assert rows["input_ids"] == [[tiny_tokenizer("is")["input_ids"], tiny_tokenizer("Oslo is")["input_ids"]]]


def test_questions_share_a_text():
    pairs = data(question=["q0", "q1", "q2"], text=["a", "b", "a"])
    queries, texts, right = retrieval_texts(pairs, ["question", "text"])
    assert (queries, texts, right.tolist()) == (["q0", "q1", "q2"], ["a", "b"], [0, 1, 0])
