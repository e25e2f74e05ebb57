"""Logging of the script."""

import logging
import sys

import datasets
import transformers
from transformers import (
    TrainingArguments,
)

from sparsification.report.progress import is_interactive

logger = logging.getLogger(__package__)  # what all steps of the script log to


def set_up_logging(training_args: TrainingArguments) -> None:
    """Log to standard output, on the level that the arguments name (info where they do not)."""
    logging.basicConfig(
        format="%(asctime)s - %(levelname)s - %(name)s - %(message)s",
        datefmt="%m/%d/%Y %H:%M:%S",
        handlers=[logging.StreamHandler(sys.stdout)],
    )
    if training_args.should_log:
        transformers.utils.logging.set_verbosity_info()  # what the level "passive" then means
    level = training_args.get_process_log_level()
    logger.setLevel(level)
    datasets.utils.logging.set_verbosity(level)
    transformers.utils.logging.set_verbosity(level)
    transformers.utils.logging.enable_default_handler()
    transformers.utils.logging.enable_explicit_format()
    if not (training_args.should_log and is_interactive()):
        datasets.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
    logger.log(
        logging.WARNING if training_args.should_log else logging.INFO,
        f"Process {training_args.process_index} of {training_args.world_size} on {training_args.device}, "
        f"{training_args.n_gpu} GPUs, fp16 {training_args.fp16}, bf16 {training_args.bf16}",
    )
    logger.info(f"Arguments: {training_args}")
