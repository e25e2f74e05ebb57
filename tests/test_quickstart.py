"""The quickstart's data is what it claims to be: made by its script, answers in place, nothing known beforehand."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

QUICKSTART = ROOT / "quickstart"


def questions(split: str) -> list[tuple[str, dict]]:
    """Each question of a split with its context."""
    articles = json.loads((QUICKSTART / f"{split}.json").read_text("utf-8"))["data"]
    return [(p["context"], qa) for article in articles for p in article["paragraphs"] for qa in p["qas"]]


def test_data_is_made_again_byte_for_byte(tmp_path):
    subprocess.run([sys.executable, QUICKSTART / "make_data.py", "--output_dir", tmp_path], check=True)
    for name in ("train.json", "validation.json"):
        assert (tmp_path / name).read_bytes() == (QUICKSTART / name).read_bytes()


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_answer_stands_where_it_says(split):
    asked = questions(split)
    for context, qa in asked:
        for answer in qa["answers"]:
            assert context[answer["answer_start"] :].startswith(answer["text"])
    assert len({qa["id"] for _, qa in asked}) == len(asked) >= 900


def test_validation_is_held_out():
    known = {context for context, _ in questions("train")}
    assert not any(context in known for context, _ in questions("validation"))


def test_untrained_model_is_the_same_each_time(tmp_path):
    for name in ("one", "two"):
        command = [sys.executable, QUICKSTART / "make_model.py", "--train_file", QUICKSTART / "train.json"]
        subprocess.run([*command, "--output_dir", tmp_path / name], check=True)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
