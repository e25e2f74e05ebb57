"""Checks of all flags before slow steps: the table ``RULES``, the optimizer, the scheduler and the hub."""

import logging

import torch
from transformers import PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments, get_scheduler
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

from sparsification.tasks.errors import UsageError
from sparsification.tasks.question_answering.arguments import Flags
from sparsification.tasks.question_answering.flag_rules import RULES

logger = logging.getLogger(__name__)


def check_flags(flags: Flags) -> None:
    """Apply ``RULES``: correct flags, with a warning for each, or refuse them, in one message for all.

    Raises:
        UsageError: flags that would fail later, one line for each.
    """
    warn = logger.warning if flags.training.should_log else logger.debug
    problems = []
    for rule in RULES:
        if not rule.applies(flags):
            continue
        message = rule.message(flags.value(rule.flag))
        if rule.outcome == "refused":
            problems.append(message)
            continue
        warn(message)
        if rule.outcome == "corrected":
            flags.set(rule.flag, rule.correction)
            if rule.flag == "metric_for_best_model":
                flags.set("greater_is_better", True)
    problems += [problem for problem in (_optimizer_problem(flags), _accelerator_problem(flags)) if problem]
    if problems:
        raise UsageError("\n".join(problems))
    if flags.training.push_to_hub:
        _check_hub(flags.training)


class _SingleWeight(PreTrainedModel):
    """A model with one weight of size one."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.linear = torch.nn.Linear(1, 1)


def _optimizer_problem(flags: Flags) -> str | None:
    """Make the optimizer and the scheduler for a weight of size one; return the error of torch or Transformers."""
    args = flags.training
    if not args.do_train or args.optim_target_modules is not None:
        return None
    weight = _SingleWeight(PreTrainedConfig())
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args, weight)
        optimizer = kind(weight.parameters(), **options)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        name = OptimizerNames(args.optim).value
        return f"--optim {name}, --optim_args {args.optim_args}, --learning_rate {args.learning_rate}: {error}"
    if flags.manager.sets_learning_rate:
        return None
    settings = args.lr_scheduler_kwargs
    try:
        get_scheduler(
            args.lr_scheduler_type,
            optimizer,
            num_warmup_steps=args.get_warmup_steps(100),
            num_training_steps=100,
            scheduler_specific_kwargs=settings if isinstance(settings, dict) else None,
        )
    except (ValueError, TypeError) as error:
        return (
            f"--lr_scheduler_type {SchedulerType(args.lr_scheduler_type).value}, --lr_scheduler_kwargs "
            f"{args.lr_scheduler_kwargs}: {error}"
        )
    return None


def _accelerator_problem(flags: Flags) -> str | None:
    config = flags.training.accelerator_config
    accumulation: dict = (config.gradient_accumulation_kwargs if isinstance(config, AcceleratorConfig) else None) or {}
    if "num_steps" in accumulation and flags.training.gradient_accumulation_steps > 1:
        return (
            f"--gradient_accumulation_steps {flags.training.gradient_accumulation_steps} and num_steps "
            f"{accumulation['num_steps']} of --accelerator_config set the same number: give one of them"
        )
    return None


def _check_hub(args: TrainingArguments) -> None:
    """Check the token at the hub: a wrong one would fail at the end of the run."""
    from huggingface_hub import whoami

    try:
        whoami(token=args.hub_token)
    except OSError as error:
        raise UsageError(f"--push_to_hub: {error}") from error
