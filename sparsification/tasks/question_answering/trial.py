"""Short trial of a run, before its features are made and before it trains.

Errors that would occur after the last epoch occur here in the first minute: a few questions pass through features, one
optimizer step with all losses and quantizers of the recipe, evaluation, answers, and the export. The trial uses copies
of the model, the recipe and the arguments, and a temporary folder. The random numbers of the run are not changed.

The whole model is exported, by the run's own exporter, although dynamo takes a few seconds longer than TorchScript:
each exporter fails on other operators (dynamo on XLNet's), so only this one shows that the run's export would fail. The
time that dynamo adds depends little on the size of the model, so a smaller model would save little.
"""

import contextlib
import copy
import logging
import random
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import PrinterCallback, TrainingArguments
from transformers.trainer_utils import IntervalStrategy, SaveStrategy

from sparsification.errors import SparsificationError
from sparsification.export.targets import SPARSE_TARGET
from sparsification.tasks.errors import UsageError
from sparsification.tasks.output_dir import output_folder
from sparsification.tasks.question_answering import feature_sets, loading, pipeline
from sparsification.tasks.question_answering.arguments import Flags
from sparsification.tasks.question_answering.features import prepare_train_features, prepare_validation_features

logger = logging.getLogger(__name__)

REFUSALS = (ValueError, TypeError, KeyError, ImportError)  # errors of Transformers, torch and ONNX on wrong arguments


def try_out(
    flags: Flags,
    raw_datasets: DatasetDict,
    models: loading.Models,
) -> float:
    """Train one step, evaluate, and export, with copies, on a few questions.

    Args:
        flags: the run's arguments and recipe; the recipe's manager must not be initialized yet.
        raw_datasets: the run's questions.
        models: the model before training, and its teacher.

    Returns:
        Duration in seconds.

    Raises:
        UsageError: a step of the run would fail.
        SparsificationError: the recipe or the teacher does not fit the model, or the model cannot be exported.
    """
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="trial-") as folder, _without_a_trace():
        try:
            _run(
                replace(flags, training=_arguments(flags.training, folder), manager=copy.deepcopy(flags.manager)),
                raw_datasets,
                replace(models, model=copy.deepcopy(models.model)),
            )
        except SparsificationError:
            raise
        except REFUSALS as error:
            raise UsageError(f"the trial before training failed, {type(error).__name__}: {error}") from error
    return time.perf_counter() - begun


def _arguments(args: TrainingArguments, folder: str) -> TrainingArguments:
    """Copy of the run's arguments for a single step that writes to ``folder`` alone."""
    args = copy.copy(args)
    args.output_dir = folder
    args.max_steps, args.gradient_accumulation_steps = 1, 1
    args.eval_strategy = args.logging_strategy = IntervalStrategy.NO
    args.save_strategy = SaveStrategy.NO
    args.report_to, args.disable_tqdm = [], True
    args.load_best_model_at_end = args.eval_on_start = args.push_to_hub = args.enable_jit_checkpoint = False
    args.torch_compile = args.auto_find_batch_size = False
    # Workers take longer to start than a batch takes to load.
    args.dataloader_num_workers, args.dataloader_prefetch_factor = 0, None
    args.dataloader_persistent_workers, args.dataloader_multiprocessing_context = False, None
    return args


def _run(
    flags: Flags,
    raw_datasets: DatasetDict,
    models: loading.Models,
) -> None:
    args = flags.training
    train_count = args.per_device_train_batch_size * args.world_size
    eval_count = args.per_device_eval_batch_size * args.world_size
    cutting = feature_sets.cutting(models, flags.data)
    by_length = feature_sets.length_column(args)
    first = next(iter(feature_sets.training_questions(raw_datasets, cutting, flags.data, args).values()))
    train_dataset = Dataset(prepare_train_features(first[:train_count], **cutting, length_column=by_length))
    eval_dataset = eval_examples = None
    if args.do_eval:
        eval_examples = loading.limited(raw_datasets["validation"], eval_count)
        eval_dataset = Dataset(prepare_validation_features(eval_examples[:], **cutting))
    trainer = pipeline.make_trainer(flags, models, train_dataset, eval_dataset, eval_examples, teacher_cache=None)
    trainer.pop_callback(PrinterCallback)
    trainer.manager.preview()
    trainer.train()
    if args.do_eval:
        trainer.evaluate()
        if models.teacher is not None:
            trainer.evaluate_teacher()
    if flags.sparse.onnx_export_path is not None:
        # The weights are not pruned yet, so the sparse operators cannot be tried.
        target = "onnxruntime" if flags.sparse.onnx_target == SPARSE_TARGET else flags.sparse.onnx_target
        folder = output_folder(args) / "onnx"
        trainer.export_onnx(folder, target, flags.sparse.onnx_opset, flags.sparse.onnx_exporter)


@contextlib.contextmanager
def _without_a_trace() -> Iterator[None]:
    """Restore the random numbers afterwards, and suppress warnings, which the real run will repeat."""
    legacy = np.random.get_state()  # noqa: NPY002 - the one that Transformers seeds
    states = random.getstate(), torch.get_rng_state(), torch.cuda.get_rng_state_all()
    silenced = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(silenced)
        random.setstate(states[0])
        np.random.set_state(legacy)  # noqa: NPY002
        torch.set_rng_state(states[1])
        torch.cuda.set_rng_state_all(states[2])
