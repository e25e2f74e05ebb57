"""Which flags of 2021 does Transformers 5 no longer know, and what replaces them?

``translate_flags`` turns a command line of 2021, Transformers' or SparseML's, into today's; ``translate_mapping`` does
the same for a config file. A flag is renamed, dropped where it says nothing any more, or refused where dropping it
would quietly train another model: the tables say which. What is not in them passes untouched.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsification.errors import SparsificationError

Settings = Mapping[str, Any]  # flags without dashes, and their values; True is a flag that stands alone
New = list[tuple[str, Any]]  # flags and values of today in the place of one of 2021; [] if it is dropped

RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "torchdynamo": "torch_compile_backend",
    "xpu_backend": "ddp_backend",
    "max_val_samples": "max_eval_samples",
    "max_test_samples": "max_predict_samples",
    "nm_prune_config": "recipe",
    "teacher_model_name_or_path": "distill_teacher",
    "student_model_name_or_path": "model_name_or_path",
}
SWITCHES: dict[str, tuple[str, Any]] = {  # what was on or off -> today's flag and value where it was on
    "adafactor": ("optim", "adafactor"),
    "evaluate_during_training": ("eval_strategy", "steps"),
    "group_by_length": ("train_sampling_strategy", "group_by_length"),
    "include_inputs_for_metrics": ("include_for_metrics", ["inputs"]),
    "include_tokens_per_second": ("include_num_input_tokens_seen", True),
    "no_cuda": ("use_cpu", True),
    "tpu_metrics_debug": ("debug", "tpu_metrics_debug"),
}
_AMP = "--fp16 and --bf16 use PyTorch's own mixed precision today"
DROPPED = {
    "fp16_backend": _AMP,
    "fp16_opt_level": _AMP,
    "half_precision_backend": _AMP,
    "jit_mode_eval": "evaluation runs without torch.jit today; see --torch_compile",
    "mp_parameters": "only SageMaker's launcher used it",
    "no_save_safetensors": "weights are always saved as safetensors today",
    "num_export_samples": "--onnx_export_path checks its model on real features and keeps no samples",
    "past_index": "no question-answering model here has a past state",
    "ray_scope": "it concerned hyperparameter search only",
    "save_safetensors": "weights are always saved as safetensors today",
    "tpu_num_cores": "the launcher decides it",
    "use_ipex": "PyTorch holds these optimizations itself today",
    "use_legacy_prediction_loop": "there is one evaluation loop today",
    "use_mps_device": "the MPS device is used where there is one; --use_cpu avoids it",
}
_RECIPE = (
    "the recipe says it today: set {} of !DistillationModifier there, or with --recipe_args where it is a variable"
)
REFUSED = {
    "dispatch_batches": "write --accelerator_config '{\"dispatch_batches\": true}' today",
    "distill_hardness": _RECIPE.format("hardness"),
    "distill_temperature": _RECIPE.format("temperature"),
    "fsdp_min_num_params": "write --fsdp_config '{\"min_num_params\": ...}' today",
    "fsdp_transformer_layer_cls_to_wrap": "write --fsdp_config '{\"transformer_layer_cls_to_wrap\": [...]}' today",
    "layers_to_keep": "the recipe says it today: name the layers to drop in !LayerPruningModifier",
    "push_to_hub_organization": "write --hub_model_id ORGANIZATION/NAME today",
    "sharded_ddp": "fairscale is gone: use --fsdp with --fsdp_config, or --deepspeed",
    "split_batches": "write --accelerator_config '{\"split_batches\": true}' today",
    "temperature": _RECIPE.format("temperature"),
}
OPTIMIZERS = {"adamw_hf": "adamw_torch", "adamw_apex_fused": "adamw_torch_fused"}


class FlagError(SparsificationError, ValueError):
    """Flags that cannot be translated without changing what they mean, one a line."""


def translate_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Put today's flags in place of those of 2021.

    ``--logging_dir`` became the environment variable TENSORBOARD_LOGGING_DIR: it is set here.

    Args:
        argv: the arguments after the script's name; ``--flag value`` or ``--flag=value``, with ``_`` or ``-`` inside.

    Returns:
        The new arguments, and one line of warning for each flag that was changed.

    Raises:
        FlagError: flags that have no equal today, or that contradict each other.
    """
    groups: list[list[str]] = [[]]  # first what stands before any flag, then each flag with what follows it
    for token in argv:
        if token.startswith("--"):
            groups.append([token])
        else:
            groups[-1].append(token)
    translated, *flags = groups
    read = [_read(tokens) for tokens in flags]
    # Of a flag given twice the last one counts, as in argparse.
    last = {key: index for index, (key, _, _) in enumerate(read)}
    changes, warnings = _translate({key: value for key, value, _ in read})
    for index, (tokens, (key, _, rest)) in enumerate(zip(flags, read, strict=True)):
        if key not in changes:
            translated += tokens
        elif last[key] == index:
            translated += [token for name, value in changes[key] for token in _write(name, value)] + rest
    return translated, warnings


def translate_mapping(settings: Settings) -> tuple[dict[str, Any], list[str]]:
    """What ``translate_flags`` does, for the content of a JSON or YAML config file.

    Args:
        settings: flags without dashes, and their values.

    Returns:
        The new settings, and one line of warning for each that was changed.

    Raises:
        FlagError: as ``translate_flags``.
    """
    changes, warnings = _translate(settings)
    return dict(new for key, value in settings.items() for new in changes.get(key, [(key, value)])), warnings


def _read(tokens: list[str]) -> tuple[str, Any, list[str]]:
    """A flag's key, its value, and what follows that."""
    name, equals, value = tokens[0].partition("=")
    key = name[2:].replace("-", "_")
    if equals:
        return key, value, tokens[1:]
    return (key, tokens[1], tokens[2:]) if len(tokens) > 1 else (key, True, [])


def _write(name: str, value: Any) -> list[str]:
    if value is True:
        return [f"--{name}"]
    if isinstance(value, list):
        return [f"--{name}", *value]
    # A value that begins with a dash would read as a flag.
    return [f"--{name}={value}"] if str(value).startswith("-") else [f"--{name}", str(value)]


def _translate(given: Settings) -> tuple[dict[str, New], list[str]]:
    """For each flag to be changed what stands in its place, and the warnings; all errors at once."""
    changes: dict[str, New] = {}
    warnings: list[str] = []
    errors: list[str] = []
    for old, value in given.items():
        try:
            replacement = _replace(old, value, given)
        except FlagError as error:
            errors.append(str(error))
            continue
        if replacement is None:
            continue
        changes[old], warning = replacement
        warnings.append(warning)
        for name, new in changes[old]:
            if name == old or name not in given or str(given[name]) == str(new):
                continue
            if _off(given[name]):
                changes[name] = []
            else:
                errors.append(f"--{old} is --{name} today, and both are given, with different values")
    if errors:
        raise FlagError("\n".join(errors))
    return changes, warnings


def _replace(old: str, value: Any, given: Settings) -> tuple[New, str] | None:
    """What stands in a flag's place today, and the warning; None if it stays as it is."""
    if old in SPECIAL:
        return SPECIAL[old](old, value, given)
    if old in RENAMED:
        return [(RENAMED[old], value)], f"--{old} is --{RENAMED[old]} today"
    if old in SWITCHES:
        return [] if _off(value) else [SWITCHES[old]], f"--{old} is {' '.join(_write(*SWITCHES[old]))} today"
    if old in REFUSED and not _off(value):
        raise FlagError(f"--{old} is no flag any more: {REFUSED[old]}")
    if old in REFUSED or old in DROPPED:
        return [], f"--{old} was dropped: {DROPPED.get(old, 'it was off')}"
    return None


def _off(value: Any) -> bool:
    return value is None or str(value).lower() in ("", "0", "0.0", "false", "f", "no", "n", "none")


def _on(value: Any) -> bool:
    return str(value).lower() in ("1", "true", "t", "yes", "y")


def _on_cpu(given: Settings) -> bool:
    return _on(given.get("use_cpu")) or _on(given.get("no_cuda"))


def _no_accelerator() -> bool:
    import torch  # Most command lines do without.

    return not torch.accelerator.is_available()


def _fp16(old: str, value: Any, given: Settings) -> tuple[New, str] | None:
    if _off(value) or not (_on_cpu(given) or _no_accelerator()):
        return None
    return [], f"--{old} was dropped: without an accelerator this runs in fp32 (--bf16 --use_cpu would work)"


def _bf16(old: str, value: Any, given: Settings) -> tuple[New, str] | None:
    added_by_other = old != "bf16" and _on(given.get("bf16"))
    if _off(value) or _on_cpu(given) or added_by_other or not _no_accelerator():
        return None
    return [(old, value), ("use_cpu", True)], f"--{old} without an accelerator needs --use_cpu: added"


def _warmup_ratio(old: str, value: Any, given: Settings) -> tuple[New, str]:
    if not _off(given.get("warmup_steps")):
        return [], "--warmup_ratio was dropped: --warmup_steps is given, and overrules it as it always did"
    if _off(value):
        return [], "--warmup_ratio was dropped: it was 0; today's flag is --warmup_steps"
    try:
        ratio = float(value)
    except ValueError:
        raise FlagError(f"--warmup_ratio expects a number, not {value!r}") from None
    if not 0 < ratio < 1:  # From 1 on it counts steps.
        raise FlagError(f"--warmup_ratio is --warmup_steps today, and there {value} would be a number of steps")
    return [("warmup_steps", value)], f"--warmup_ratio is --warmup_steps {value} today: a number below 1 is a ratio"


def _logging_dir(old: str, value: Any, given: Settings) -> tuple[New, str]:
    if value is True:
        raise FlagError("--logging_dir expects a directory")
    if not _off(value):
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(value)
    return [], "--logging_dir is the environment variable TENSORBOARD_LOGGING_DIR today: it was set"


def _use_auth_token(old: str, value: Any, given: Settings) -> tuple[New, str]:
    if _on(value) or _off(value):
        return [], "--use_auth_token was dropped: a stored token is used by itself today, --token takes another one"
    return [("token", value)], "--use_auth_token is --token today"


def _do_onnx_export(old: str, value: Any, given: Settings) -> tuple[New, str]:
    if _off(value) or "onnx_export_path" in given or "export_onnx_path" in given:
        return [], "--do_onnx_export was dropped: --onnx_export_path alone exports today"
    path = str(Path(str(given.get("output_dir", "trainer_output"))) / "onnx")
    return [("onnx_export_path", path)], f"--do_onnx_export is --onnx_export_path {path} today"


def _optim(old: str, value: Any, given: Settings) -> tuple[New, str] | None:
    if value not in OPTIMIZERS:
        return None
    return [("optim", OPTIMIZERS[value])], f"--optim {value} is --optim {OPTIMIZERS[value]} today"


SPECIAL = {
    "bf16": _bf16,
    "bf16_full_eval": _bf16,
    "do_onnx_export": _do_onnx_export,
    "fp16": _fp16,
    "fp16_full_eval": _fp16,
    "logging_dir": _logging_dir,
    "optim": _optim,
    "use_auth_token": _use_auth_token,
    "warmup_ratio": _warmup_ratio,
}
