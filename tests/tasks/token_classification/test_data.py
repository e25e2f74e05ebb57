"""Words with tags become labels of tokens, from CSV and JSON files."""

import csv
import json
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value, load_dataset

from sparsification.tasks.errors import DataError
from sparsification.tasks.token_classification.data import IGNORED, find_column, make_encode, read_words

SENTENCES = [(["Oslo", "in", "Norway"], ["B-LOC", "O", "B-LOC"]), (["Ada", "Lovelace"], ["B-PER", "I-PER"])]


def as_lists(words: list[str], tags: list[str]) -> tuple[str, str]:
    return json.dumps(words), json.dumps(tags)


def as_texts(words: list[str], tags: list[str]) -> tuple[str, str]:
    return " ".join(words), " ".join(tags)


@pytest.mark.parametrize("form", [as_lists, as_texts])
def test_csv_and_json_files_become_the_same_words_and_numbers(tmp_path: Path, form):
    with (tmp_path / "a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("tokens", "ner_tags"), *(form(*pair) for pair in SENTENCES)])
    lines = [json.dumps({"tokens": words, "ner_tags": tags}) for words, tags in SENTENCES]
    (tmp_path / "a.json").write_text("\n".join(lines))
    found = [
        read_words(load_dataset(kind, data_files={"train": str(tmp_path / f"a.{kind}")}), "tokens", "ner_tags")
        for kind in ("csv", "json")
    ]
    assert found[0][1] == found[1][1] == ["B-LOC", "B-PER", "I-PER", "O"]
    rows = [{"words": SENTENCES[0][0], "tags": [0, 3, 0]}, {"words": SENTENCES[1][0], "tags": [1, 2]}]
    assert found[0][0]["train"].to_list() == found[1][0]["train"].to_list() == rows


def sentences(tags: list, feature: object) -> DatasetDict:
    features = Features({"tokens": List(Value("string")), "ner_tags": List(feature)})
    data = {"tokens": [["Oslo", "in"]], "ner_tags": [tags]}
    return DatasetDict(train=Dataset.from_dict(data, features))


def test_order_of_the_models_labels_is_kept_where_it_has_all_of_the_datas():
    classes = sentences([1, 0], ClassLabel(names=["O", "B-LOC"]))
    assert read_words(classes, "tokens", "ner_tags")[1] == ["O", "B-LOC"]
    data, names = read_words(classes, "tokens", "ner_tags", ["B-PER", "B-LOC", "O"])
    assert (data["train"][0]["tags"], names) == ([1, 2], ["B-PER", "B-LOC", "O"])
    assert read_words(classes, "tokens", "ner_tags", ["LABEL_0", "LABEL_1"])[1] == ["O", "B-LOC"]


def test_record_with_more_words_than_tags_is_refused_by_number():
    with pytest.raises(DataError, match="train data, record 1: 2 words in 'tokens' and 1 tags in 'ner_tags'"):
        read_words(sentences(["O"], Value("string")), "tokens", "ner_tags")


def test_missing_column_is_refused_with_those_that_are_there():
    splits = sentences(["O", "O"], Value("string"))
    assert find_column(splits, None, ("words", "tokens"), "words") == "tokens"
    with pytest.raises(DataError, match="the data needs a column 'text' of words, it has tokens, ner_tags"):
        find_column(splits, "text", ("words", "tokens"), "words")
    with pytest.raises(DataError, match="needs a column 'a' or 'b' of tags"):
        find_column(splits, None, ("a", "b"), "tags")


@pytest.mark.parametrize(("label_all", "further"), [(False, IGNORED), (True, 2)])
def test_first_token_of_a_word_has_its_tag_and_the_others_none_or_the_inside_tag(tiny_tokenizer, label_all, further):
    names = ["O", "B-PER", "I-PER"]
    encoded = make_encode(tiny_tokenizer, names, {}, label_all)({"words": [["Qx", "is", "Oslo"]], "tags": [[1, 0, 0]]})
    (ids,), (labels,) = encoded["input_ids"], encoded["labels"]
    assert tiny_tokenizer.convert_ids_to_tokens(ids)[:4] == ["[CLS]", "q", "##x", "is"]
    assert labels[:4] == [IGNORED, 1, further, 0]
    assert labels[-1] == IGNORED and len(labels) == len(ids)


def test_words_behind_the_longest_feature_are_cut_off(tiny_tokenizer):
    encode = make_encode(tiny_tokenizer, ["O"], {"truncation": True, "max_length": 8})
    assert encode({"words": [["is"] * 20], "tags": [[0] * 20]})["labels"] == [[IGNORED, *[0] * 6, IGNORED]]
