"""Logging of the script: what a run prints, and on which level.

Unless ``--log_level`` is given, a run of a few steps fits a screen: the messages that Transformers and datasets print
for each file that they read or write are left out. ``--log_level info`` prints all of them.
"""

import logging
import sys

import datasets
import transformers
from transformers import (
    TrainingArguments,
)

from sparsification.cpu import has_fast_bf16
from sparsification.report.progress import is_interactive

logger = logging.getLogger(__package__)  # what all steps of the script log to

# Loggers of Transformers that report each file: configurations in full, weights, tokenizers, look-ups in the cache.
PER_FILE = ("configuration_utils", "modeling_utils", "tokenization_utils_base", "trainer_utils", "utils.hub")
# Functions of transformers.trainer whose messages repeat in each evaluation, or name folders that are renamed later.
TRAINER = "trainer"
REPEATED = ("_remove_unused_columns", "_remove_columns", "_save", "_finalize_training", "evaluation_loop")


class _Concise(logging.Filter):
    """Drop messages below warnings, but for those of the training loop.

    A filter and not a level: Transformers checks more where the level of its own logger is "warning".
    """

    def filter(self, record: logging.LogRecord) -> bool:
        of_training = record.name.endswith(f".{TRAINER}") and record.funcName not in REPEATED
        return record.levelno >= logging.WARNING or of_training


_concise = _Concise()


def set_up_logging(training_args: TrainingArguments) -> None:
    """Log to standard output, on the level that ``--log_level`` names; concise where it is not given."""
    logging.basicConfig(
        format="%(asctime)s - %(levelname)s - %(name)s - %(message)s",
        datefmt="%m/%d/%Y %H:%M:%S",
        handlers=[logging.StreamHandler(sys.stdout)],
    )
    concise = training_args.should_log and training_args.log_level == "passive"
    if training_args.should_log:
        transformers.utils.logging.set_verbosity_info()  # the level that "passive" stands for
    level = training_args.get_process_log_level()
    logging.getLogger("sparsification").setLevel(level)
    datasets.utils.logging.set_verbosity(logging.WARNING if concise else level)
    datasets.utils.logging.disable_propagation()  # or the root logger prints each message again
    transformers.utils.logging.set_verbosity(level)
    transformers.utils.logging.disable_propagation()  # the same; on where the environment says CI=true
    transformers.utils.logging.enable_default_handler()
    transformers.utils.logging.enable_explicit_format()
    for name in (*PER_FILE, TRAINER):
        library = logging.getLogger(f"transformers.{name}")
        (library.addFilter if concise else library.removeFilter)(_concise)
    if not (training_args.should_log and is_interactive()):
        datasets.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
    logger.log(
        logging.WARNING if training_args.should_log else logging.INFO,
        f"Process {training_args.process_index} of {training_args.world_size} on {training_args.device}, "
        f"{training_args.n_gpu} GPUs, fp16 {training_args.fp16}, bf16 {training_args.bf16}",
    )
    for flag in ("bf16", "bf16_full_eval"):
        if getattr(training_args, flag) and not has_fast_bf16(training_args.device):
            logger.warning(f"--{flag}: this processor has no instructions for bfloat16; fp32 is many times as fast")
    if concise:
        logger.info("--log_level info prints all arguments, configurations and files")
    else:
        logger.info(f"Arguments: {training_args}")
