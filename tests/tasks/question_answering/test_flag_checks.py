"""Every flag works, or is refused or corrected before training, or says that it has no effect."""

import dataclasses
import logging
import shutil

import pytest
import torch
from transformers import TrainingArguments
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from helpers.data import PLACES, SENTENCES
from helpers.flag_cases import CASES, SCRIPT, Case, cases_of
from helpers.recipes import DISTILL
from run_qa import format_error, main
from sparsification.arguments import SparsificationArguments
from sparsification.tasks.errors import TaskError
from sparsification.tasks.question_answering import pipeline as stages_qa
from sparsification.tasks.question_answering.arguments import DataTrainingArguments, ModelArguments
from sparsification.tasks.question_answering.flag_rules import RULES

ARGUMENTS = (ModelArguments, DataTrainingArguments, SparsificationArguments, TrainingArguments)
FIELDS = {field.name: field for kind in ARGUMENTS for field in dataclasses.fields(kind)}
QUANTIZES = """
length: 1.0
modifiers:
  - !EpochRangeModifier
    end_epoch: eval(length)
  - !QuantizationModifier
    start_epoch: 0.0
"""


@pytest.fixture
def run(tiny_model_dir, tiny_squad, tmp_path, monkeypatch):
    """Run the script with some flags more: the arguments that its trainer was made with, and its metrics."""
    out, file, recipe = tmp_path / "out", tmp_path / "file", tmp_path / "recipe.yaml"
    file.write_text("{}")
    recipe.write_text(QUANTIZES)
    distills, text = tmp_path / "distills.yaml", tmp_path / "text.txt"
    distills.write_text(DISTILL)
    text.write_text(" ".join(SENTENCES.format(city=a, country=b, water=c, people=d) for a, b, c, d in PLACES))
    seen = []
    make_trainer = stages_qa.make_trainer

    def recorded(flags, *args, **kwargs):
        seen.append(flags)
        return make_trainer(flags, *args, **kwargs)

    monkeypatch.setattr(stages_qa, "make_trainer", recorded)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
    monkeypatch.chdir(tmp_path)

    def run(argv: str):
        places = {"recipe": recipe, "distills": distills, "file": file, "text": text, "out": out}
        places["model"] = tiny_model_dir
        data = f"--train_file {tiny_squad}/train.json --validation_file {tiny_squad}/validation.json"
        base = f"--model_name_or_path {tiny_model_dir} {data} --output_dir {out} --do_train --do_eval --max_steps 2"
        small = "--use_cpu --max_seq_length 64 --doc_stride 16 --report_to none --per_device_train_batch_size 6"
        metrics = main(f"{base} {small} {argv.format(**places)}".split())
        return seen[-1], metrics

    yield run
    torch.use_deterministic_algorithms(False)  # what --full_determinism has turned on
    unset_hf_deepspeed_config()  # what --deepspeed has left
    shutil.rmtree(out, ignore_errors=True)


def test_every_flag_has_its_case():
    assert set(CASES) == set(FIELDS)


def test_every_rule_has_its_case():
    told = {(flag, case.outcome) for flag in CASES for case in cases_of(flag)}
    assert {(rule.flag, rule.outcome) for rule in RULES} <= told | {
        (flag, "refused")  # the same rule as for the flags before them in its list
        for flag in ("eval_accumulation_steps", "max_grad_norm", "data_seed", "dataloader_num_workers", "deepspeed")
    } | {("neftune_noise_alpha", "refused"), ("doc_stride", "refused")}


@pytest.mark.parametrize(
    ("flag", "case"),
    [pytest.param(flag, case, id=f"{flag}-{number}") for flag in CASES for number, case in enumerate(cases_of(flag))],
)
def test_flag_does_what_the_table_says(flag: str, case: Case, run, tmp_path, caplog, monkeypatch):
    if flag in ("tf32", "fp16", "fp16_full_eval"):
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if case.outcome == "refused":
        with pytest.raises((TaskError, Exception)) as caught:
            run(case.argv)
        assert case.words in (format_error(caught.value) or "a traceback")
        assert not (tmp_path / "out" / "model.safetensors").exists(), "refused only after training"
        return
    with caplog.at_level(logging.WARNING):
        flags, metrics = run(case.argv)
    assert 0 <= metrics["eval_f1"] <= 100
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert case.words in caplog.text
    if case.outcome == "works":
        default = FIELDS[flag].default
        assert flags.value(flag) != default or flag in ("token", "hub_token")


def test_flags_of_the_script_come_first():
    assert set(SCRIPT) == {field.name for kind in ARGUMENTS[:3] for field in dataclasses.fields(kind)}
