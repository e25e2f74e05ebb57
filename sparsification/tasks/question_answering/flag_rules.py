"""Table of the flags that question answering refuses, corrects or ignores.

Transformers' arguments are the same for all tasks. For question answering, some of them would lose the scores, some
have no effect, and some values fail only when training starts. ``RULES`` has an entry for each such case;
docs/flags.md is generated from it.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from transformers.trainer_utils import IntervalStrategy

from sparsification.manager import ScheduledModifierManager
from sparsification.tasks.question_answering.arguments import Flags
from sparsification.trainer.split_weights import split_weights_error

SPEED = ("runtime", "samples_per_second", "steps_per_second")
SCORES = ("exact_match", "f1")
SCORES_V2 = (
    *(f"{group}{name}" for group in ("", "HasAns_", "NoAns_") for name in ("exact", "f1", "total")),
    *("best_exact", "best_f1", "best_exact_thresh", "best_f1_thresh"),
)
FEATURE_COLUMNS = ("input_ids", "attention_mask", "token_type_ids", "start_positions", "end_positions")
LABELS = ["start_positions", "end_positions"]


@dataclass(frozen=True)
class Rule:
    """What happens to a flag in some cases."""

    flag: str
    outcome: Literal["refused", "corrected", "no effect"]
    applies: Callable[[Flags], bool]
    reason: str  # "{value}" stands for the flag's value
    correction: Any = None  # value that replaces the given one, if ``corrected``

    def message(self, value: Any) -> str:
        """Message for the user."""
        said = f"--{self.flag} {value}"
        reason = self.reason.format(value=value)
        if self.outcome == "corrected":
            return f"{said} is {self.correction} in this run: {reason}"
        return f"{said} has no effect: {reason}" if self.outcome == "no effect" else f"{said}: {reason}"


def _scores(flags: Flags) -> tuple[str, ...]:
    """Names of the metrics that an evaluation computes."""
    return SCORES_V2 if flags.data.version_2_with_negative else SCORES


def _given_with(flag: str, recipe: Callable[[ScheduledModifierManager], bool]) -> Callable[[Flags], bool]:
    """Condition that a flag is given together with a recipe of some kind."""
    return lambda flags: bool(flags.value(flag)) and recipe(flags.manager)


def _below(flag: str, least: float) -> Rule:
    """Refuse numbers below a minimum."""

    def applies(flags: Flags) -> bool:
        value = flags.value(flag)
        return value is not None and value < least

    return Rule(flag, "refused", applies, f"expected {least:g} or more")


def _is_file(flag: str) -> Rule:
    """Refuse a file where a folder is expected."""
    return Rule(flag, "refused", lambda flags: os.path.isfile(flags.value(flag) or ""), "a file; a folder is expected")


def _trains_with_teacher(flags: Flags) -> bool:
    trains = flags.training.do_train and not flags.sparse.one_shot
    return trains and flags.manager.distills and flags.sparse.distill_teacher not in (None, "disable")


def _without_workers(flag: str, default: Any) -> Rule:
    """Reset a setting of workers if there are none, which torch refuses."""
    return Rule(
        flag,
        "corrected",
        lambda flags: bool(flags.value(flag)) and flags.training.dataloader_num_workers == 0,
        "it needs the workers that --dataloader_num_workers starts, and there are none",
        default,
    )


RULES: tuple[Rule, ...] = (
    # Settings of evaluation that this task cannot use.
    Rule(
        "metric_for_best_model",
        "corrected",
        lambda flags: (
            flags.compares_checkpoints and flags.training.metric_for_best_model in (None, "loss", "eval_loss")
        ),
        "an evaluation of answers computes no loss",
        "f1",
    ),
    Rule(
        "metric_for_best_model",
        "refused",
        lambda flags: (
            flags.compares_checkpoints
            and flags.training.metric_for_best_model is not None
            and flags.training.metric_for_best_model.removeprefix("eval_") not in (*_scores(flags), *SPEED)
        ),
        f"no such metric: there are {', '.join(SCORES)} or, with --version_2_with_negative, {', '.join(SCORES_V2)}",
    ),
    Rule(
        "prediction_loss_only",
        "corrected",
        lambda flags: flags.training.prediction_loss_only,
        "answers are computed from logits",
        False,
    ),
    Rule(
        "batch_eval_metrics",
        "corrected",
        lambda flags: flags.training.batch_eval_metrics,
        "an answer needs all windows of its question, which may be in several batches",
        False,
    ),
    Rule(
        "include_for_metrics",
        "corrected",
        lambda flags: bool(flags.training.include_for_metrics),
        "the metrics compare texts of answers, and use neither inputs nor losses",
        [],
    ),
    Rule(
        "eval_do_concat_batches",
        "no effect",
        lambda flags: not flags.training.eval_do_concat_batches,
        "the logits of all batches are always joined at the end of an evaluation",
    ),
    Rule(
        "eval_on_start",
        "refused",
        lambda flags: flags.training.eval_on_start and not flags.training.do_eval,
        "it needs --do_eval and validation data",
    ),
    Rule(
        "remove_unused_columns",
        "corrected",
        lambda flags: not flags.training.remove_unused_columns,
        "the features have columns for the answers' texts, which no model takes",
        True,
    ),
    Rule(
        "label_names",
        "corrected",
        lambda flags: flags.training.label_names not in (None, LABELS),
        f"the labels of question answering are {' and '.join(LABELS)}",
        None,
    ),
    Rule(
        "label_smoothing_factor",
        "refused",
        lambda flags: flags.training.label_smoothing_factor != 0,
        "the loss of question answering is the model's own, which does not smooth labels",
    ),
    Rule(
        "length_column_name",
        "refused",
        lambda flags: flags.training.length_column_name in FEATURE_COLUMNS,
        "the features have a column of this name already",
    ),
    Rule(
        "null_score_diff_threshold",
        "no effect",
        lambda flags: flags.data.null_score_diff_threshold != 0 and not flags.data.version_2_with_negative,
        "it is for --version_2_with_negative",
    ),
    Rule(
        "debug",
        "refused",
        lambda flags: "underflow_overflow" in flags.training.debug,
        "its detector fails on the boolean masks of today's attention; a run stops at the first non-finite loss",
    ),
    Rule(
        "use_liger_kernel",
        "refused",
        lambda flags: flags.training.use_liger_kernel,
        "its kernels are for decoders, and encoders are trained here",
    ),
    Rule("use_cache", "no effect", lambda flags: flags.training.use_cache, "encoders have no cache of keys and values"),
    # Flags that need another flag.
    Rule(
        "eval_steps",
        "no effect",
        lambda flags: flags.training.eval_steps is not None and flags.training.eval_strategy != IntervalStrategy.STEPS,
        "it is for --eval_strategy steps",
    ),
    Rule(
        "eval_delay",
        "no effect",
        lambda flags: flags.training.eval_delay != 0 and flags.training.eval_strategy == IntervalStrategy.NO,
        "it is for --eval_strategy steps or epoch",
    ),
    _without_workers("dataloader_persistent_workers", False),
    _without_workers("dataloader_multiprocessing_context", None),
    Rule(
        "fsdp_config",
        "no effect",
        lambda flags: bool(flags.training.fsdp_config) and not flags.training.fsdp,
        "it is for --fsdp",
    ),
    Rule(
        "fsdp",
        "refused",
        lambda flags: bool(flags.training.fsdp) and flags.training.world_size == 1,
        "there is one process only: launch several with torchrun",
    ),
    # Numbers and paths.
    *(_below(flag, 1) for flag in ("per_device_train_batch_size", "per_device_eval_batch_size")),
    *(
        _below(flag, 1)
        for flag in ("gradient_accumulation_steps", "eval_accumulation_steps", "preprocessing_num_workers")
    ),
    *(_below(flag, 1) for flag in ("max_train_samples", "max_eval_samples", "max_predict_samples")),
    _below("distill_questions_per_paragraph", 1),
    *(
        _below(flag, 0)
        for flag in ("weight_decay", "max_grad_norm", "num_train_epochs", "seed", "data_seed", "doc_stride")
    ),
    *(_below(flag, 0) for flag in ("dataloader_num_workers", "neftune_noise_alpha")),
    *(_is_file(flag) for flag in ("output_dir", "cache_dir")),
    *(_is_file(flag) for flag in ("onnx_export_path", "teacher_cache")),
    _below("onnx_opset", 11),
    Rule(
        "onnx_export_path",
        "refused",
        lambda flags: (flags.sparse.onnx_export_path or "").endswith(".onnx"),
        "it names a folder, to which model.onnx is written",
    ),
    Rule(
        "best_model_after_epoch",
        "no effect",
        lambda flags: flags.sparse.best_model_after_epoch is not None and not flags.compares_checkpoints,
        "it is for --load_best_model_at_end and --save_strategy best",
    ),
    Rule(
        "teacher_cache",
        "no effect",
        lambda flags: flags.sparse.teacher_cache not in (None, "off") and not flags.manager.distills,
        "no recipe that distills was given",
    ),
    Rule(
        "distill_file",
        "refused",
        lambda flags: flags.data.distill_file is not None and not _trains_with_teacher(flags),
        "a teacher labels its questions: it needs --do_train, a --recipe that distills and a --distill_teacher",
    ),
    Rule(
        "distill_questions_per_paragraph",
        "no effect",
        lambda flags: flags.data.distill_file is None and flags.data.distill_questions_per_paragraph != 2,
        "it is for --distill_file",
    ),
    Rule(
        "auto_find_batch_size",
        "refused",
        lambda flags: flags.training.auto_find_batch_size and bool(flags.manager.modifiers),
        "another batch size would change the recipe's schedule during the run",
    ),
    *(
        Rule(
            flag,
            "refused",
            _given_with(flag, lambda manager: manager.quantizes),
            "it computes each layer again in the backward pass, which would update the recipe's int8 ranges twice",
        )
        for flag in ("gradient_checkpointing", "activation_checkpointing")
    ),
    *(
        Rule(
            flag,
            "refused",
            _given_with(flag, lambda manager: bool(manager.modifiers)),
            split_weights_error(launcher),
        )
        for flag, launcher in (("fsdp", "FSDP"), ("deepspeed", "DeepSpeed"))
    ),
)
