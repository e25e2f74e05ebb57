"""Data, commands and recipe of the quickstart, and the commands that the pages give for what it leaves.

The quickstart itself takes minutes: ``make quickstart`` is its test. Here its commands run on a few questions.
"""

import dataclasses
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoTokenizer

import run_qa
from helpers import ROOT
from quickstart import make_model, quickstart
from sparsification.cli.main import main
from sparsification.manager import ScheduledModifierManager
from sparsification.tasks.question_answering import arguments as arguments_qa

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


@pytest.fixture(scope="module")
def tokenizer():
    return make_model.make_tokenizer(QUICKSTART / "train.json")


def test_answers_of_validation_are_partly_new():
    known = {qa["answers"][0]["text"] for _, qa in questions("train")}
    new = [qa["answers"][0]["text"] not in known for _, qa in questions("validation")]
    assert sum(new) > len(new) / 4


def test_data_is_small():
    assert sum(path.stat().st_size for path in QUICKSTART.glob("*.json")) < 2.5e6


@pytest.mark.parametrize("split", ["train", "validation"])
def test_every_question_fits_into_one_feature(split, tokenizer):
    asked = questions(split)
    lengths = map(len, tokenizer([qa["question"] for _, qa in asked], [context for context, _ in asked])["input_ids"])
    assert max(lengths) <= make_model.MAX_LENGTH


def test_tokenizer_is_saved_whole(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    asked = "In 1932 Élise Okerby paid 12,500 pounds?"
    assert AutoTokenizer.from_pretrained(tmp_path)(asked).tokens() == tokenizer(asked).tokens()
    assert "[UNK]" not in tokenizer(asked).tokens()


def test_run_qa_knows_the_flags_of_each_command():
    commands = {name: [*map(str, command)] for name, _, command in quickstart.steps(Path("quickstart"), Path("out"))}
    assert list(commands) == ["untrained", "teacher", "student"]
    for name in ("teacher", "student"):
        assert commands[name][:2] == ["python", "run_qa.py"]
        training_args = arguments_qa.parse_arguments(commands[name][2:]).training
        assert training_args.do_train and training_args.do_eval
    assert "quickstart/recipe.yaml" in commands["student"]


def test_recipe_prunes_the_encoder_to_80_percent_and_nothing_else(tokenizer):
    model = make_model.make_model(len(tokenizer))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    manager = ScheduledModifierManager.from_yaml(QUICKSTART / "recipe.yaml")
    manager.initialize(model)
    manager.apply_one_shot()
    for name, weight in model.named_parameters():
        if "encoder" in name and weight.dim() == 2:
            assert float((weight == 0).float().mean()) == pytest.approx(0.8, abs=1e-3), name
        else:
            assert torch.equal(weight, before[name]), name
    assert manager.distills and manager.sets_learning_rate


def test_sparsity_is_counted_in_the_encoders_matrices(tmp_path):
    weight = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    tensors = {
        "bert.encoder.layer.0.output.dense.weight": weight,
        "bert.encoder.layer.0.output.dense.bias": torch.zeros(2),
        "bert.encoder.layer.0.output.LayerNorm.weight": torch.zeros(2),
        "bert.embeddings.word_embeddings.weight": torch.zeros(2, 2),
        "qa_outputs.weight": torch.ones(2, 2),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    assert quickstart.encoder_sparsity(tmp_path / "model.safetensors") == 0.75


def test_a_missed_bar_is_told():
    teacher = quickstart.Measured("teacher", 80.0, 90.0, 90.0, 0.0, 1, 1, 1.0)
    quickstart.check_bars(teacher, dataclasses.replace(teacher, name="student", f1=87.4))
    with pytest.raises(quickstart.QuickstartError, match="student's F1 is 87.2"):
        quickstart.check_bars(teacher, dataclasses.replace(teacher, name="student", f1=87.2))
    with pytest.raises(quickstart.QuickstartError, match="teacher's F1 is 79.9"):
        quickstart.check_bars(dataclasses.replace(teacher, f1=79.9), teacher)


def commands_after(page: str) -> list[list[str]]:
    """The commands that a page gives for what the quickstart leaves, after the line that activates the environment."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)
    text = next(block for block in blocks if block.startswith("source .venv/bin/activate\n"))
    return [shlex.split(line) for line in text.replace("\\\n", " ").splitlines()[1:]]


@pytest.fixture(scope="module")
def left_folder(tmp_path_factory) -> Path:
    """A folder with the quickstart's data, and what its commands leave when they run on a few questions."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(QUICKSTART, folder / "quickstart", ignore=shutil.ignore_patterns("out", "__pycache__"))
    few = ["--max_train_samples", "64", "--max_eval_samples", "16", "--skip_trial"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, _, command in quickstart.steps(Path("quickstart"), Path("quickstart/out")):
            if name == "untrained":
                subprocess.run([sys.executable, *map(str, command[1:])], check=True)
            else:
                run_qa.main([*map(str, command[2:]), *few])
    return folder


def test_untrained_model_is_the_same_in_another_process(left_folder, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    make_model.make_model(len(tokenizer)).save_pretrained(tmp_path)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / name).read_bytes() == (left_folder / "quickstart/out/untrained" / name).read_bytes()


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_pages_commands_run_on_what_the_quickstart_leaves(page, left_folder, monkeypatch, capsys):
    monkeypatch.chdir(left_folder)
    commands = commands_after(page)
    assert [command[:2] for command in commands] == [
        ["sparsification", name] for name in ("predict", "compare", "check")
    ]
    printed = []
    for command in commands:
        assert main(command[1:]) == 0
        printed.append(capsys.readouterr().out)
    assert "%, characters " in printed[0]
    assert [line.partition("  ")[0].rstrip() for line in printed[1].splitlines()[1:5]] == [
        *("teacher, model", "teacher, ONNX", "student, student", "student, ONNX")
    ]
    assert "12 parameters, 393,216 weights" in printed[2] and "No warnings." in printed[2]
    for command in commands[1:]:
        picture = Path(command[command.index("--plot") + 1])
        start = {".png": b"\x89PNG", ".html": b"<!DOCTYPE html>"}[picture.suffix]
        assert picture.read_bytes().startswith(start)
        picture.unlink()


def test_the_pages_question_is_of_the_kind_that_the_model_has_learned():
    command = commands_after("README.md")[0]
    assert command == commands_after("docs/quickstart.md")[0]
    question, context = (command[command.index(flag) + 1] for flag in ("--question", "--context"))
    known = [(text, qa) for text, qa in questions("validation") if qa["question"] == question]
    assert len(known) == 1
    text, qa = known[0]
    assert context.split(". ")[0] == text.split(". ")[0]
    assert f"`{qa['answers'][0]['text']}`" in (ROOT / "README.md").read_text()


def test_make_quickstart_names_the_environment_that_the_pages_activate():
    makefile = (ROOT / "Makefile").read_text()
    assert "VENV := .venv\n" in makefile
    recipe = re.search(r"^quickstart:.*\n((?:\t.*\n)+)", makefile, re.M)[1]
    assert "docs/quickstart.md, after: source $(VENV)/bin/activate" in recipe
