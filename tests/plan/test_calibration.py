"""Rows of calibration data."""

import json

import pytest

from helpers.exports import make_bert, make_roberta
from helpers.models import build_tiny_tokenizer
from sparsification.plan.calibration import as_batches, read_rows
from sparsification.plan.units import PlanError


def test_text_and_question_are_one_pair_and_rows_are_cut(tmp_path):
    path, tokenizer = tmp_path / "data.json", build_tiny_tokenizer()
    records = [{"question": "What is the capital of Norway?", "context": "Oslo is the capital. " * 9, "id": "1"}]
    path.write_text(json.dumps(records))
    (row,) = read_rows(path, make_bert(), tokenizer, count=5, length=20)
    assert set(row) == {"input_ids", "token_type_ids", "attention_mask"}
    assert len(row["input_ids"]) == 20
    assert tokenizer.decode(row["input_ids"]).startswith("[CLS] what is the capital of norway? [SEP] oslo is")
    assert 1 in row["token_type_ids"]


def test_paragraphs_are_drawn_the_same_way_each_time_and_padded_by_length(tmp_path):
    path, tokenizer = tmp_path / "data.txt", build_tiny_tokenizer()
    path.write_text("\n".join("Oslo " * count for count in range(1, 41)))
    rows = read_rows(path, make_roberta(), tokenizer, count=20, length=64)
    assert rows == read_rows(path, make_roberta(), tokenizer, count=20, length=64)
    assert len(rows) == 20 and set(rows[0]) == {"input_ids", "attention_mask"}
    batches = as_batches(rows, tokenizer)
    assert [len(batch["input_ids"]) for batch in batches] == [16, 4]
    lengths = [int(length) for batch in batches for length in batch["attention_mask"].sum(1)]
    assert lengths == sorted(len(row["input_ids"]) for row in rows)


@pytest.mark.parametrize(("text", "message"), [(None, "no such file"), ("\n \n", "there is no text in it")])
def test_data_without_text_is_refused(text, message, tmp_path):
    path = tmp_path / "data.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PlanError, match=f"--data .*: {message}"):
        read_rows(path, make_bert(), build_tiny_tokenizer(), 5, 20)
