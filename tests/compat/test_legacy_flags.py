"""Legacy flags keep their meaning, or are refused."""

import os
import shlex
from dataclasses import dataclass, field, fields

import pytest
from transformers import HfArgumentParser, TrainingArguments

from sparsification.compat import legacy_flags as flags
from sparsification.compat.legacy_flags import FlagError, translate_flags

# TrainingArguments of Transformers 4.5.1, 4.6.1, 4.10.3, 4.17.0, 4.30.2, 4.40.2 and 4.57.6 that 5.23 lacks. Of these
# run_qa.py defines overwrite_output_dir itself; _n_gpu was never a flag.
GONE = """
adafactor dispatch_batches evaluation_strategy fp16_backend fp16_opt_level fsdp_min_num_params
fsdp_transformer_layer_cls_to_wrap group_by_length half_precision_backend include_inputs_for_metrics
include_tokens_per_second jit_mode_eval logging_dir mp_parameters no_cuda past_index per_gpu_eval_batch_size
per_gpu_train_batch_size push_to_hub_model_id push_to_hub_organization push_to_hub_token ray_scope save_safetensors
sharded_ddp split_batches torchdynamo tpu_metrics_debug tpu_num_cores use_ipex use_legacy_prediction_loop
use_mps_device warmup_ratio xpu_backend
"""


@dataclass
class ScriptArguments:
    """The flags of run_qa.py that appear below."""

    model_name_or_path: str | None = None
    dataset_name: str | None = None
    cache_dir: str | None = None
    token: str | None = None
    overwrite_output_dir: bool = False
    preprocessing_num_workers: int | None = None
    max_seq_length: int = 384
    doc_stride: int = 128
    max_eval_samples: int | None = None
    max_predict_samples: int | None = None
    recipe: str | None = None
    distill_teacher: str | None = None
    onnx_export_path: str | None = field(default=None, metadata={"aliases": ["--export_onnx_path"]})


PARSER = HfArgumentParser([ScriptArguments, TrainingArguments])


@pytest.fixture(autouse=True)
def no_accelerator(monkeypatch):
    """The same on a machine with a GPU; and what --logging_dir sets is taken back."""
    monkeypatch.setattr(flags, "_no_accelerator", lambda: True)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "as it was")


@pytest.fixture
def accelerator(no_accelerator, monkeypatch):
    monkeypatch.setattr(flags, "_no_accelerator", lambda: False)


def _parse(argv: list[str]) -> tuple[ScriptArguments, TrainingArguments]:
    """What Transformers 5 itself makes of it; an unknown flag raises."""
    argv = argv if "--output_dir" in argv else [*argv, "--output_dir", "out"]
    return PARSER.parse_args_into_dataclasses(argv, look_for_args_file=False)


KNOWN = {*flags.RENAMED, *flags.SWITCHES, *flags.DROPPED, *flags.REFUSED, *flags.SPECIAL}


def _key(token: str) -> str:
    return token.removeprefix("--").split("=")[0].replace("-", "_")


# Old command line, what it must mean today.
TRANSLATED = [
    ("--evaluation_strategy epoch", {"eval_strategy": "epoch"}),
    ("--evaluation-strategy=steps", {"eval_strategy": "steps"}),
    ("--evaluate_during_training", {"eval_strategy": "steps"}),
    ("--evaluate_during_training False", {"eval_strategy": "no"}),
    ("--per_gpu_train_batch_size 3", {"per_device_train_batch_size": 3}),
    ("--per-gpu-eval-batch-size=5", {"per_device_eval_batch_size": 5}),
    ("--no_cuda", {"use_cpu": True}),
    ("--no_cuda True", {"use_cpu": True}),
    ("--no_cuda=false", {"use_cpu": False}),
    ("--warmup_ratio 0.1", {"warmup_steps": 0.1}),
    ("--warmup_ratio 0.1 --warmup_steps 0", {"warmup_steps": 0.1}),
    ("--warmup_steps 0 --warmup_ratio 0.1", {"warmup_steps": 0.1}),
    ("--warmup_ratio 0.1 --warmup_steps 100", {"warmup_steps": 100}),
    ("--warmup_ratio 0.0", {"warmup_steps": 0}),
    ("--group_by_length", {"train_sampling_strategy": "group_by_length"}),
    ("--group_by_length False", {"train_sampling_strategy": "random"}),
    ("--adafactor", {"optim": "adafactor"}),
    ("--optim adamw_hf", {"optim": "adamw_torch"}),
    ("--optim adamw_apex_fused", {"optim": "adamw_torch_fused"}),
    ("--include_inputs_for_metrics", {"include_for_metrics": ["inputs"]}),
    ("--include_tokens_per_second", {"include_num_input_tokens_seen": "all"}),
    ("--tpu_metrics_debug", {"debug": ["tpu_metrics_debug"]}),
    ("--torchdynamo eager", {"torch_compile_backend": "eager"}),
    ("--push_to_hub_model_id mine", {"hub_model_id": "mine"}),
    ("--push_to_hub_token hf_x", {"hub_token": "hf_x"}),
    ("--push_to_hub_token -x", {"hub_token": "-x"}),
    ("--use_auth_token", {"token": None}),
    ("--use_auth_token True", {"token": None}),
    ("--use_auth_token hf_x", {"token": "hf_x"}),
    ("--max_val_samples 7", {"max_eval_samples": 7}),
    ("--max_test_samples 7", {"max_predict_samples": 7}),
    ("--nm_prune_config r.yaml", {"recipe": "r.yaml"}),
    ("--teacher_model_name_or_path t", {"distill_teacher": "t"}),
    ("--student_model_name_or_path s", {"model_name_or_path": "s"}),
    ("--do_onnx_export", {"onnx_export_path": os.path.join("out", "onnx")}),
    ("--do_onnx_export --onnx_export_path o", {"onnx_export_path": "o"}),
    ("--export_onnx_path o --do_onnx_export", {"onnx_export_path": "o"}),
    ("--fp16", {"fp16": False}),
    ("--fp16 True", {"fp16": False}),
    ("--fp16_full_eval", {"fp16_full_eval": False}),
    ("--bf16", {"bf16": True, "use_cpu": True}),
    ("--bf16_full_eval", {"bf16_full_eval": True, "use_cpu": True}),
    *((f"--{flag} {value}", {}) for flag, value in {
        "fp16_backend": "amp",
        "fp16_opt_level": "O2",
        "half_precision_backend": "auto",
        "jit_mode_eval": "",
        "logging_dir": "runs",
        "mp_parameters": "x",
        "num_export_samples": "20",
        "past_index": "-1",
        "ray_scope": "last",
        "save_safetensors": "False",
        "no_save_safetensors": "",
        "tpu_num_cores": "8",
        "use_ipex": "",
        "use_legacy_prediction_loop": "True",
        "use_mps_device": "",
        "sharded_ddp": "''",
        "dispatch_batches": "False",
    }.items()),
]  # fmt: skip
REFUSED = [
    ("--distill_hardness 1.0", "set hardness of !DistillationModifier"),
    ("--distill_temperature=2.0", "set temperature of !DistillationModifier"),
    ("--temperature 2", "set temperature of !DistillationModifier"),
    ("--layers_to_keep 6", "!LayerPruningModifier"),
    ("--sharded_ddp simple", "use --fsdp"),
    ("--fsdp_min_num_params 100", "--fsdp_config"),
    ("--fsdp_transformer_layer_cls_to_wrap BertLayer", "--fsdp_config"),
    ("--dispatch_batches True", "--accelerator_config"),
    ("--split_batches", "--accelerator_config"),
    ("--push_to_hub_organization us", "--hub_model_id ORGANIZATION/NAME"),
    ("--warmup_ratio 1.0", "must be below 1, got 1.0"),
    ("--warmup_ratio much", "must be a number, got 'much'"),
    ("--logging_dir", "requires a directory"),
    ("--per_gpu_train_batch_size 8 --per_device_train_batch_size 16", "both are given with different values"),
    ("--evaluation_strategy epoch --eval_strategy steps", "--evaluation_strategy is now --eval_strategy, and both"),
]


@pytest.mark.parametrize(("old", "meant"), TRANSLATED, ids=[old for old, _ in TRANSLATED])
def test_legacy_flag_keeps_its_meaning(old, meant):
    argv, warnings = translate_flags([*shlex.split(old), "--output_dir", "out"])
    script, training = _parse(argv)
    values = vars(script) | {name: getattr(training, name) for name in meant.keys() - vars(script).keys()}
    assert {name: values[name] for name in meant} == meant
    assert len(warnings) == sum(_key(token) in KNOWN for token in shlex.split(old))
    assert translate_flags(argv) == (argv, [])


@pytest.mark.parametrize(("old", "sentence"), REFUSED, ids=[old for old, _ in REFUSED])
def test_flag_without_an_equivalent_is_refused(old, sentence):
    with pytest.raises(FlagError) as caught:
        translate_flags(shlex.split(old))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_flag_in_the_tables_is_tried_here():
    tried = {_key(token) for old, _ in TRANSLATED + REFUSED for token in old.split()}
    assert tried | {"xpu_backend"} >= KNOWN


def test_every_flag_that_transformers_removed_is_known():
    today = {entry.name for entry in fields(TrainingArguments)}
    assert set(GONE.split()) <= KNOWN
    assert today.isdisjoint(GONE.split())
    assert {*flags.RENAMED, *flags.SWITCHES, *flags.DROPPED, *flags.REFUSED}.isdisjoint(today)


def test_ddp_backend_takes_the_place_of_xpu_backend():
    # Apart from the others: TrainingArguments opens a process group at once.
    argv, _ = translate_flags(["--xpu_backend", "gloo"])
    assert PARSER.parse_known_args(argv)[0].ddp_backend == "gloo"


def test_all_refusals_at_once():
    with pytest.raises(FlagError) as caught:
        translate_flags(["--distill_hardness", "1.0", "--layers_to_keep", "6"])
    assert len(str(caught.value).splitlines()) == 2


def test_each_warning_is_one_line_and_names_todays_flag():
    for old, _ in TRANSLATED:
        argv, warnings = translate_flags(shlex.split(old))
        for warning in warnings:
            assert "\n" not in warning
            assert warning.startswith("--")
        new = {token.split("=")[0] for token in argv if token.startswith("--")} - set(shlex.split(old))
        assert all(flag in " ".join(warnings) for flag in new)


def test_no_token_is_printed():
    _, warnings = translate_flags(["--use_auth_token", "hf_secret", "--push_to_hub_token", "hf_secret"])
    assert len(warnings) == 2
    assert "hf_secret" not in " ".join(warnings)


def test_logging_dir_goes_to_tensorboard():
    translate_flags(["--logging_dir", "runs/here"])
    assert os.environ["TENSORBOARD_LOGGING_DIR"] == "runs/here"


def test_precision_flags_stay_where_there_is_an_accelerator(accelerator):
    argv = ["--fp16", "--bf16_full_eval", "--output_dir", "out"]
    assert translate_flags(argv) == (argv, [])
    # Except if it is not to be used.
    assert translate_flags(["--fp16", "--use_cpu"])[0] == ["--use_cpu"]
    assert translate_flags(["--no_cuda", "--fp16"])[0] == ["--use_cpu"]
    assert translate_flags(["--bf16", "--no_cuda"])[0] == ["--bf16", "--use_cpu"]


def test_precision_flags_on_a_cpu():
    assert translate_flags(["--fp16"])[0] == []
    assert translate_flags(["--fp16", "False"]) == (["--fp16", "False"], [])
    assert translate_flags(["--bf16", "--bf16_full_eval"])[0] == ["--bf16", "--use_cpu", "--bf16_full_eval"]
    assert translate_flags(["--bf16", "--use_cpu"]) == (["--bf16", "--use_cpu"], [])


def test_unknown_flags_are_not_changed():
    argv = ["conf.json", "--frobnicate", "-1", "--seed=3", "--report_to", "wandb", "tensorboard", "--a-b", "--", "x"]
    argv += ["--overwrite_output_dir", "--optim", "sgd", "--warmup_steps", "10"]
    assert translate_flags(argv) == (argv, [])
    assert translate_flags(["conf.json"]) == (["conf.json"], [])
    assert translate_flags([]) == ([], [])


def test_of_a_flag_given_twice_the_last_counts():
    argv, warnings = translate_flags(["--evaluation_strategy", "no", "--seed", "1", "--evaluation_strategy", "epoch"])
    assert argv == ["--seed", "1", "--eval_strategy", "epoch"]
    assert len(warnings) == 1


def test_same_value_under_both_names_is_no_contradiction():
    argv, _ = translate_flags(["--no_cuda", "--use_cpu", "--per_gpu_train_batch_size=8"])
    assert _parse(argv)[1].use_cpu is True


TRAIN = """
  --dataset_name squad --do_train --do_eval --evaluation_strategy epoch --per_device_train_batch_size 16
  --learning_rate 5e-5 --max_seq_length 384 --doc_stride 128 --cache_dir cache --preprocessing_num_workers 6 --fp16
  --save_total_limit 2"""
TUTORIAL = {
    "teacher": "--model_name_or_path bert-base-uncased --num_train_epochs 2 --warmup_steps 5400 --save_strategy epoch"
    " --output_dir MODELS_DIR/bert-base-12layers" + TRAIN,
    "prune": "--model_name_or_path bert-base-uncased --distill_teacher MODELS_DIR/bert-base-12layers"
    " --output_dir MODELS_DIR/bert-base-12layers_prune80 --num_train_epochs 30 --save_strategy epoch"
    " --recipe recipes/bert-base-12layers_prune80.md"
    " --onnx_export_path MODELS_DIR/bert-base-12layers_prune80/onnx" + TRAIN,
    "export": "--model_name_or_path MODELS_DIR/bert-base-12layers_prune80 --dataset_name squad --do_eval"
    " --output_dir MODELS_DIR/bert-base-12layers_prune80/eval --per_device_eval_batch_size 16 --cache_dir cache"
    " --onnx_export_path MODELS_DIR/bert-base-12layers_prune80/onnx",
}


@pytest.mark.parametrize("command", TUTORIAL)
def test_commands_of_the_tutorial_parse(command):
    argv, warnings = translate_flags(shlex.split(TUTORIAL[command]))
    script, training = _parse(argv)
    assert training.do_eval
    assert training.eval_strategy == ("no" if command == "export" else "epoch")
    assert training.fp16 is False
    assert training.warmup_steps == (5400 if command == "teacher" else 0)
    assert script.dataset_name == "squad"
    assert len(warnings) == (0 if command == "export" else 2)
