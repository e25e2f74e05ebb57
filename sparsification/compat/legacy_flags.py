"""Translation of legacy flags, of Transformers 4 and SparseML, into those of Transformers 5.

The tables below define which flags are renamed, which are dropped because they have no effect, and which are refused
because dropping them would train another model. Other flags are not changed.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsification.errors import SparsificationError

Settings = Mapping[str, Any]  # flags without dashes, and their values; True: a flag without a value
New = list[tuple[str, Any]]  # current flags and values that replace a legacy one; [] if it is dropped

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
SWITCHES: dict[str, tuple[str, Any]] = {  # legacy switch -> current flag and value if it is on
    "adafactor": ("optim", "adafactor"),
    "evaluate_during_training": ("eval_strategy", "steps"),
    "group_by_length": ("train_sampling_strategy", "group_by_length"),
    "include_inputs_for_metrics": ("include_for_metrics", ["inputs"]),
    "include_tokens_per_second": ("include_num_input_tokens_seen", True),
    "no_cuda": ("use_cpu", True),
    "tpu_metrics_debug": ("debug", "tpu_metrics_debug"),
}
_AMP = "--fp16 and --bf16 now use PyTorch's mixed precision"
DROPPED = {
    "fp16_backend": _AMP,
    "fp16_opt_level": _AMP,
    "half_precision_backend": _AMP,
    "jit_mode_eval": "evaluation no longer uses torch.jit; see --torch_compile",
    "mp_parameters": "only SageMaker's launcher used it",
    "no_save_safetensors": "weights are always saved as safetensors",
    "num_export_samples": "--onnx_export_path verifies the model on real features and saves no samples",
    "past_index": "question-answering models have no past state",
    "ray_scope": "it is for hyperparameter search only",
    "save_safetensors": "weights are always saved as safetensors",
    "tpu_num_cores": "the launcher sets it",
    "use_ipex": "PyTorch now contains these optimizations",
    "use_legacy_prediction_loop": "there is only one evaluation loop now",
    "use_mps_device": "an MPS device is used by default; --use_cpu avoids it",
}
_RECIPE = "set {} of !DistillationModifier in the recipe, or with --recipe_args if it is a variable"
REFUSED = {
    "dispatch_batches": "use --accelerator_config '{\"dispatch_batches\": true}'",
    "distill_hardness": _RECIPE.format("hardness"),
    "distill_temperature": _RECIPE.format("temperature"),
    "fsdp_min_num_params": "use --fsdp_config '{\"min_num_params\": ...}'",
    "fsdp_transformer_layer_cls_to_wrap": "use --fsdp_config '{\"transformer_layer_cls_to_wrap\": [...]}'",
    "layers_to_keep": "name the layers to drop in !LayerPruningModifier in the recipe",
    "push_to_hub_organization": "use --hub_model_id ORGANIZATION/NAME",
    "sharded_ddp": "fairscale is no longer supported: use --fsdp with --fsdp_config, or --deepspeed",
    "split_batches": "use --accelerator_config '{\"split_batches\": true}'",
    "temperature": _RECIPE.format("temperature"),
}
OPTIMIZERS = {"adamw_hf": "adamw_torch", "adamw_apex_fused": "adamw_torch_fused"}


class FlagError(SparsificationError, ValueError):
    """Legacy flags cannot be translated without changing their meaning; the message has one line per flag."""


def translate_flags(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Translate the legacy flags of a command line.

    ``--logging_dir`` was replaced by the environment variable TENSORBOARD_LOGGING_DIR, which is set here.

    Args:
        argv: the arguments after the script's name; ``--flag value`` or ``--flag=value``, with ``_`` or ``-`` inside.

    Returns:
        The new arguments, and a one-line warning for each flag that was changed.

    Raises:
        FlagError: a flag has no equivalent, or two flags contradict each other.
    """
    groups: list[list[str]] = [[]]  # the tokens before the first flag, then each flag with the tokens after it
    for token in argv:
        if token.startswith("--"):
            groups.append([token])
        else:
            groups[-1].append(token)
    translated, *flags = groups
    read = [_read(tokens) for tokens in flags]
    # If a flag is given twice, the last one counts, as in argparse.
    last = {key: index for index, (key, _, _) in enumerate(read)}
    changes, warnings = _translate({key: value for key, value, _ in read})
    for index, (tokens, (key, _, rest)) in enumerate(zip(flags, read, strict=True)):
        if key not in changes:
            translated += tokens
        elif last[key] == index:
            translated += [token for name, value in changes[key] for token in _write(name, value)] + rest
    return translated, warnings


def _read(tokens: list[str]) -> tuple[str, Any, list[str]]:
    """Return the key of a flag, its value, and the tokens after the value."""
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
    # A separate value that begins with a dash would be parsed as a flag.
    return [f"--{name}={value}"] if str(value).startswith("-") else [f"--{name}", str(value)]


def _translate(given: Settings) -> tuple[dict[str, New], list[str]]:
    """Return the replacement of each flag that changes, and the warnings; raise all errors at once."""
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
                errors.append(f"--{old} is now --{name}, and both are given with different values")
    if errors:
        raise FlagError("\n".join(errors))
    return changes, warnings


def _replace(old: str, value: Any, given: Settings) -> tuple[New, str] | None:
    """Return the replacement of a flag and the warning, None if it does not change."""
    if old in SPECIAL:
        return SPECIAL[old](old, value, given)
    if old in RENAMED:
        return [(RENAMED[old], value)], f"--{old} is now --{RENAMED[old]}"
    if old in SWITCHES:
        return [] if _off(value) else [SWITCHES[old]], f"--{old} is now {' '.join(_write(*SWITCHES[old]))}"
    if old in REFUSED and not _off(value):
        raise FlagError(f"--{old} is no longer a flag: {REFUSED[old]}")
    if old in REFUSED or old in DROPPED:
        return [], f"--{old} was dropped: {DROPPED.get(old, 'it is off')}"
    return None


def _off(value: Any) -> bool:
    return value is None or str(value).lower() in ("", "0", "0.0", "false", "f", "no", "n", "none")


def _on(value: Any) -> bool:
    return str(value).lower() in ("1", "true", "t", "yes", "y")


def _on_cpu(given: Settings) -> bool:
    return _on(given.get("use_cpu")) or _on(given.get("no_cuda"))


def _no_accelerator() -> bool:
    import torch  # Imported only if needed.

    return not torch.accelerator.is_available()


def _fp16(old: str, value: Any, given: Settings) -> tuple[New, str] | None:
    if _off(value) or not (_on_cpu(given) or _no_accelerator()):
        return None
    return [], f"--{old} was dropped: without an accelerator the run uses fp32 (--bf16 --use_cpu is supported)"


def _bf16(old: str, value: Any, given: Settings) -> tuple[New, str] | None:
    added_by_other = old != "bf16" and _on(given.get("bf16"))
    if _off(value) or _on_cpu(given) or added_by_other or not _no_accelerator():
        return None
    return [(old, value), ("use_cpu", True)], f"--{old} without an accelerator requires --use_cpu, which was added"


def _warmup_ratio(old: str, value: Any, given: Settings) -> tuple[New, str]:
    if not _off(given.get("warmup_steps")):
        return [], "--warmup_ratio was dropped: --warmup_steps overrides it"
    if _off(value):
        return [], "--warmup_ratio was dropped: it is 0; the current flag is --warmup_steps"
    try:
        ratio = float(value)
    except ValueError:
        raise FlagError(f"--warmup_ratio must be a number, got {value!r}") from None
    if not 0 < ratio < 1:  # --warmup_steps from 1 on is a number of steps
        raise FlagError(f"--warmup_ratio must be below 1, got {value}: --warmup_steps would take it for steps")
    return [("warmup_steps", value)], f"--warmup_ratio is now --warmup_steps {value}: a value below 1 is a ratio"


def _logging_dir(old: str, value: Any, given: Settings) -> tuple[New, str]:
    if value is True:
        raise FlagError("--logging_dir requires a directory")
    if not _off(value):
        os.environ["TENSORBOARD_LOGGING_DIR"] = str(value)
    return [], "--logging_dir is now the environment variable TENSORBOARD_LOGGING_DIR, which was set"


def _use_auth_token(old: str, value: Any, given: Settings) -> tuple[New, str]:
    if _on(value) or _off(value):
        return [], "--use_auth_token was dropped: a stored token is used by default, --token sets another one"
    return [("token", value)], "--use_auth_token is now --token"


def _do_onnx_export(old: str, value: Any, given: Settings) -> tuple[New, str]:
    if _off(value) or "onnx_export_path" in given or "export_onnx_path" in given:
        return [], "--do_onnx_export was dropped: --onnx_export_path alone exports the model"
    path = str(Path(str(given.get("output_dir", "trainer_output"))) / "onnx")
    return [("onnx_export_path", path)], f"--do_onnx_export is now --onnx_export_path {path}"


def _optim(old: str, value: Any, given: Settings) -> tuple[New, str] | None:
    if value not in OPTIMIZERS:
        return None
    return [("optim", OPTIMIZERS[value])], f"--optim {value} is now --optim {OPTIMIZERS[value]}"


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
