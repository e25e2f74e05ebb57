"""Where arguments come from makes no difference: a file, several files, the command line, or both."""

import json
import shlex
from typing import get_args, get_type_hints

import pytest
import yaml
from transformers import TrainingArguments

from sparsification.compat.legacy_flags import FlagError
from sparsification.tasks.command_line import ArgumentParser, accept_files_and_lists, is_first_process, parse_flags
from sparsification.tasks.errors import UsageError
from sparsification.tasks.question_answering.arguments import parse_arguments

BASE = {"model_name_or_path": "m", "dataset_name": "d", "output_dir": "out", "use_cpu": True}


def training(*argv: str) -> TrainingArguments:
    return parse_arguments(list(argv)).training


@pytest.fixture
def file(tmp_path):
    """Write a file of arguments: those that every run needs, and more."""

    def write(name: str = "args.yaml", **values) -> str:
        path = tmp_path / name
        text = json.dumps(BASE | values) if name.endswith("json") else yaml.safe_dump(BASE | values)
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize("name", ["args.yaml", "args.yml", "args.json"])
@pytest.mark.parametrize(
    "form", ["{} --seed 3", "--config {} --seed 3", "--seed 3 --config {}", "--seed 3 --config={}"]
)
def test_what_is_typed_overrides_the_file_wherever_it_is_named(file, form, name):
    args = training(*form.format(file(name, seed=1, learning_rate=0.5)).split())
    assert (args.seed, args.learning_rate, args.output_dir) == (3, 0.5, "out")


def test_of_several_files_the_last_one_counts(file):
    first, second = file("a.yaml", seed=1, learning_rate=0.5), file("b.json", seed=2)
    assert training(first, "--config", second).seed == 2
    assert training("--config", second, "--config", first).seed == 1
    assert training(first, "--config", second).learning_rate == 0.5


@pytest.mark.parametrize(
    ("in_file", "typed", "meant"),
    [
        ({"evaluation_strategy": "epoch"}, "--eval_strategy no", {"eval_strategy": "no"}),
        ({"eval_strategy": "epoch"}, "--evaluation_strategy no", {"eval_strategy": "no"}),
        ({"warmup_ratio": 0.1}, "--warmup_steps 7", {"warmup_steps": 7}),
        ({"warmup_steps": 7}, "--warmup_ratio 0.1", {"warmup_steps": 0.1}),
        ({"per_gpu_train_batch_size": 3}, "--per_device_train_batch_size 5", {"per_device_train_batch_size": 5}),
        ({"report_to": ["wandb", "trackio"]}, "--report_to none", {"report_to": []}),
        ({"load_best_model_at_end": True}, "--load_best_model_at_end False", {"load_best_model_at_end": False}),
        ({"remove_unused_columns": False}, "--remove_unused_columns", {"remove_unused_columns": True}),
    ],
)
def test_override_holds_under_the_names_of_2021_too(file, in_file, typed, meant):
    args = training(file(**in_file), *typed.split())
    assert {name: getattr(args, name) for name in meant} == meant


def test_flag_of_2021_that_looks_at_others_sees_those_of_the_file(file):
    sparse = parse_arguments([file(output_dir="there"), "--do_onnx_export"]).sparse
    assert sparse.onnx_export_path == "there/onnx"


LISTS = {
    "report_to": ["wandb", "tensorboard"],
    "include_for_metrics": ["inputs", "loss"],
    "label_names": ["start_positions", "end_positions"],
    "debug": ["underflow_overflow", "tpu_metrics_debug"],
    "optim_target_modules": ["query", "key"],
}


def test_every_flag_of_training_that_takes_a_list_is_tried_here():
    hints = {name: (hint, *get_args(hint)) for name, hint in get_type_hints(TrainingArguments).items()}
    assert {name for name, kinds in hints.items() if any("list[" in str(kind) for kind in kinds)} == set(LISTS)


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize("number", [1, 2])
def test_list_is_read_from_a_file_and_from_the_command_line(file, name, number):
    expected = getattr(TrainingArguments("out", use_cpu=True, **{name: LISTS[name][:number]}), name)
    found = [
        training(file("a.yaml", **{name: LISTS[name][:number]})),
        training(file("a.json", **{name: LISTS[name][:number]})),
        training(file("b.yaml"), f"--{name}", *LISTS[name][:number]),
        training(f"--{name.replace('_', '-')}", *LISTS[name][:number], "--config", file("b.yaml")),
    ]
    for args in found:
        value = getattr(args, name)
        assert value == expected or [value] == expected or value == expected[0] and number == 1


@pytest.mark.parametrize(
    ("values", "meant"), [("none", []), (["none"], []), ([], []), (["wandb"], ["wandb"]), ("wandb", ["wandb"])]
)
def test_one_word_of_a_list_means_what_it_means_alone(file, values, meant):
    assert training(file(report_to=values)).report_to == meant


@pytest.mark.parametrize("value", [False, "", [], None])
def test_fsdp_that_a_file_turns_off_is_off(file, value):
    assert not training(file(fsdp=value)).fsdp


def test_words_of_fsdp_are_read_as_a_list_or_as_one_text():
    parser = ArgumentParser(TrainingArguments)
    accept_files_and_lists(parser)
    for words in (["--fsdp", "full_shard", "auto_wrap"], ["--fsdp=full_shard auto_wrap"]):
        assert parse_flags(parser, words).fsdp == "full_shard auto_wrap"
    assert parse_flags(parser, ["--fsdp"]).fsdp is True


@pytest.mark.parametrize("flag", ["eval_strategy", "save_strategy", "logging_strategy", "evaluation_strategy"])
def test_no_in_a_file_is_the_word_though_yaml_takes_it_for_false(file, tmp_path, flag):
    (tmp_path / "no.yaml").write_text(f"{flag}: no")
    name = flag.replace("evaluation", "eval")
    assert getattr(training(file(**{name: "steps"}), "--config", str(tmp_path / "no.yaml")), name) == "no"


@pytest.mark.parametrize(
    ("values", "typed", "message"),
    [
        ({"learning_rote": 1}, "", r"args\.yaml: unknown: --learning_rote=1; did you mean --learning_rate\?"),
        ({"learning_rate": "x"}, "", r"args\.yaml: argument --learning_rate/--learning-rate: invalid float value: 'x'"),
        ({"seed": [1, 2]}, "", r"args\.yaml: unknown: 2; --seed takes one value"),
        ({"config": "b.yaml"}, "", r"args\.yaml: --config b\.yaml: a file of arguments cannot name another one"),
        ({"max_seq_length": 0}, "", r"args\.yaml: --max_seq_length 0: expected 1 or more"),
        ({"max_seq_length": 0}, "--seed 3", r"args\.yaml and the command line: --max_seq_length 0: expected 1"),
        ({}, "--sed 3", r"^unknown: --sed 3; did you mean --seed\?"),
        ({}, "--seed 3 4", r"^unknown: 4; --seed takes one value"),
        ({}, "--do_eval --config", "--config expects a file"),
        ({}, "--config --do_eval", "--config expects a file"),
        ({}, "--config gone.yaml", r"gone\.yaml: .*No such file"),
    ],
)
def test_error_names_the_file_it_is_in(file, values, typed, message):
    with pytest.raises(UsageError, match=message):
        parse_arguments([file(**values), *shlex.split(typed)])


def test_error_of_a_flag_of_2021_names_the_file(file):
    with pytest.raises(FlagError) as caught:
        parse_arguments([file(layers_to_keep=6, distill_hardness=1.0)])
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert all("args.yaml: --" in line for line in lines)


def test_file_that_does_not_come_first_is_told_where_it_belongs(file):
    with pytest.raises(UsageError, match="a file of arguments comes first, or after --config"):
        parse_arguments(["--seed", "3", file()])


@pytest.mark.parametrize(
    ("environment", "first"),
    [({}, True), ({"RANK": "0"}, True), ({"RANK": "1"}, False), ({"LOCAL_RANK": "1"}, False)]
    + [({"RANK": "2", "LOCAL_RANK": "0"}, False), ({"LOCAL_RANK": "-1"}, True)],
)
def test_flags_of_2021_are_warned_of_once_on_the_first_process(file, environment, first, monkeypatch, caplog):
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    path = file(no_cuda=True, evaluation_strategy="no")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() == first
    with monkeypatch.context() as patch:
        patch.setattr(TrainingArguments, "__post_init__", lambda self: None)  # opens a process group
        parse_arguments([path, "--overwrite_output_dir", "--save_safetensors", "True"])
    words = [record.getMessage().split()[0] for record in caplog.records if record.name.endswith("tasks.command_line")]
    assert sorted(words) == (["--evaluation_strategy", "--no_cuda", "--save_safetensors"] if first else [])


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("--do_train --recipe {}", True),
        ("--do_train", False),
        ("--do_eval --recipe {}", False),
        ("--do_train --recipe {} --report_to none", False),
        ("--do_train --recipe {} --report_to trackio", False),
    ],
)
def test_run_by_a_recipe_that_names_no_dashboard_says_so_in_one_line(file, tmp_path, flags, told, caplog):
    (tmp_path / "recipe.yaml").write_text("modifiers:\n  - !EpochRangeModifier {end_epoch: 1.0}\n")
    args = training(file(), *flags.format(tmp_path / "recipe.yaml").split())
    assert args.report_to == (["trackio"] if "trackio" in flags else [])
    lines = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in lines] == (["No dashboard gets the curves of this run"] if told else [])
    assert "\n" not in "".join(lines)
