"""Steps of a training script that are the same for every task: arguments, training, evaluation, export and report.

A script chooses the model's class, the features and the metric, and leaves the rest to ``TaskRun``; see
``examples/run_glue.py``, ``examples/run_ner.py`` and ``examples/run_embedding.py``.
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import PredictionOutput

from sparsification.arguments import SparsificationArguments, teacher_cache_dir
from sparsification.atomic_io import atomic_write_text
from sparsification.distillation.teacher import load_teacher
from sparsification.errors import SparsificationError
from sparsification.export.onnx import refuse_unrecordable
from sparsification.manager import ScheduledModifierManager
from sparsification.tasks.arguments import TaskArguments
from sparsification.tasks.command_line import read_arguments
from sparsification.tasks.errors import DataError
from sparsification.tasks.exported import evaluate_files
from sparsification.tasks.in_order import InOrderTrainer
from sparsification.tasks.logs import set_up_logging
from sparsification.tasks.model_card import write_model_card
from sparsification.tasks.output_dir import digest, find_checkpoint, only_run_in, refuse_used_folder
from sparsification.trainer.mixin import SparseTrainerMixin
from sparsification.trainer.run_lock import RunLock

if TYPE_CHECKING:
    from transformers.models.auto.auto_factory import _BaseAutoModelClass


class TaskTrainer(SparseTrainerMixin, InOrderTrainer):
    """``SparseTrainer`` whose predictions are in the order of the records."""


@dataclass(frozen=True)
class Predictions:
    """A file that ``--do_predict`` writes beside predict_results.json."""

    features: Dataset | None  # of the test data; None where there are none
    file_name: str
    lines: Callable[[PredictionOutput], Iterable[str]]  # of the file, from the outputs for the features


@dataclass(frozen=True)
class TaskRun:
    """The arguments of a run, and the steps that do not depend on its task."""

    argv: Sequence[str]
    task: TaskArguments
    training: TrainingArguments
    sparse: SparsificationArguments
    manager: ScheduledModifierManager

    @classmethod
    def parse(cls, kind: type[TaskArguments], argv: Sequence[str] | None = None) -> "TaskRun":
        """Read a command line and the recipe that it names, set up logging, and set the random seed.

        Args:
            kind: dataclass of the script's own arguments.
            argv: the arguments; None means this process's own.

        Raises:
            SparsificationError: an argument or the recipe is wrong, or there is no compiler for the export.
        """
        argv = sys.argv[1:] if argv is None else argv
        (task, training, sparse), manager = read_arguments(
            (kind, TrainingArguments, SparsificationArguments), list(argv)
        )
        set_up_logging(training)
        set_seed(training.seed)
        return cls(argv, task, training, sparse, manager)

    def make_features(
        self, data: Dataset, encode: Callable[[Mapping[str, list]], Mapping[str, list]], keep: Sequence[str] = ()
    ) -> Dataset:
        """Make the features of a split, first on the main process, whose cache the others read.

        Args:
            data: the records.
            encode: makes the columns of the features from those of a batch of records.
            keep: columns of the records to keep.
        """
        with self.training.main_process_first(desc="features"):
            return data.map(
                encode,
                batched=True,
                num_proc=self.task.preprocessing_num_workers,
                remove_columns=[name for name in data.column_names if name not in keep],
                load_from_cache_file=not self.task.overwrite_cache,
            )

    def load_teacher(
        self,
        auto_class: "type[_BaseAutoModelClass]",
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        needed: bool = False,
    ) -> PreTrainedModel | None:
        """Load the teacher, if the recipe distills or compares with one.

        Args:
            auto_class: class that loads it.
            model: the student.
            tokenizer: the student's.
            needed: whether the script needs it, whatever the recipe.

        Raises:
            ManagerError: it is missing or does not fit the model.
        """
        recipe = self.manager.recipe
        needed |= self.manager.distills or self.manager.needs_reference
        source = (recipe.source if recipe is not None else Path(sys.argv[0]).name) if needed else None
        name, settings = self.sparse.distill_teacher, self.task.hub_settings
        return load_teacher(name, auto_class, model, tokenizer, source, **settings)

    def make_trainer(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        splits: Mapping[str, Dataset],
        teacher: PreTrainedModel | None,
        kind: type[TaskTrainer] = TaskTrainer,
        **kwargs: Any,
    ) -> TaskTrainer:
        """Make the Trainer.

        Args:
            model: the model to train.
            tokenizer: the model's.
            splits: features to train on ("train") and to evaluate on ("validation"), and those of other names.
            teacher: of ``load_teacher``.
            kind: class of the Trainer.
            **kwargs: further arguments of Trainer: collator and metrics.

        Raises:
            ManagerError: the recipe does not fit the model.
            ExportError: the arguments ask for an export, which cannot record such a model.
            DataError: a split that the arguments need is missing.
        """
        calibrates = self.sparse.one_shot and self.manager.samples_data
        needed = {
            "train": self.training.do_train or calibrates,
            "validation": self.training.do_eval,
            "test": self.training.do_predict,
        }
        for split, is_needed in needed.items():
            if is_needed and split not in splits:
                raise DataError(f"no {split} data: give --{split}_file, or a --dataset_name that has it")
        if self.sparse.onnx_export_path is not None:
            refuse_unrecordable(model)
        return kind(
            manager=self.manager,
            teacher=teacher,
            teacher_cache=teacher_cache_dir(self.sparse, self.task.cache_dir) if self.manager.distills else None,
            best_model_after_epoch=self.sparse.best_model_after_epoch,
            model=model,
            args=self.training,
            train_dataset=splits.get("train"),
            eval_dataset=splits.get("validation"),
            processing_class=tokenizer,
            **kwargs,
        )

    def execute(
        self,
        trainer: TaskTrainer,
        metrics: Mapping[str, str],
        task: str,
        predictions: Sequence[Predictions] = (),
        more_evaluations: Mapping[str, Dataset] | None = None,
    ) -> dict[str, float]:
        """Train or apply the recipe in one shot, evaluate, predict, export, and report: what the arguments ask for.

        The output folder is locked for this run. Training resumes from the last checkpoint in it.

        Args:
            trainer: from ``make_trainer``.
            metrics: names of the task's metrics, without prefix, and their labels; the last one counts most.
            task: the hub's name of the task, e.g. "text-classification".
            predictions: what ``--do_predict`` writes; none for a task that predicts nothing.
            more_evaluations: features of further evaluations, by the suffix of their metrics' names.

        Returns:
            All metrics, as in all_results.json.

        Raises:
            SparsificationError: the folder is used by another run or holds other files, or a step of the run failed.
        """
        command = digest(self.manager, self.training, self.task, self.sparse)
        with only_run_in(self.training, self.sparse.onnx_export_path, command) as lock:
            results = self._train(trainer, lock)
            if self.training.do_eval:
                own = trainer.evaluate()
                for suffix, features in (more_evaluations or {}).items():
                    own |= {f"{name}{suffix}": value for name, value in trainer.evaluate(features).items()}
                results |= save(trainer, "eval", own, trainer.eval_dataset)
            if self.training.do_predict:
                results |= _predict(trainer, predictions)
            if self.training.do_eval and trainer.teacher is not None:
                results |= save(trainer, "eval_teacher", trainer.evaluate_teacher(), trainer.eval_dataset)
            results |= self._export(trainer)
            if self.manager.recipe is not None:
                teacher = self.sparse.distill_teacher
                teacher = self.task.model_name_or_path if teacher == "self" else teacher
                trainer.write_report(
                    ["python", sys.argv[0], *self.argv], metrics, results, teacher, self.sparse.onnx_export_path
                )
            data = self.task.dataset_name, self.task.dataset_config_name
            write_model_card(trainer, task, self.task.model_name_or_path, *data)
            trainer.forget_end()
            trainer.accelerator.end_training()  # ends the threads between processes, or one can abort at exit
        return results

    def _train(self, trainer: TaskTrainer, lock: RunLock | None) -> dict[str, float]:
        """Train, or apply the recipe in one shot, and save the model."""
        was_interrupted = lock is None or lock.was_interrupted
        overwrite = self.task.overwrite_output_dir
        if self.sparse.one_shot:
            refuse_used_folder(self.training, overwrite, was_interrupted)
        checkpoint = None if self.sparse.one_shot else find_checkpoint(self.training, overwrite, was_interrupted)
        if lock is not None:
            lock.begin()
        if self.sparse.one_shot:
            trainer.apply_one_shot()
        if self.sparse.one_shot or not self.training.do_train:
            return {}
        trainer.keeps_end, trainer.replaces_run = True, overwrite
        results = trainer.train(resume_from_checkpoint=checkpoint).metrics
        trainer.save_model()
        trainer.save_state()
        return save(trainer, "train", results, trainer.train_dataset)

    def _export(self, trainer: TaskTrainer) -> dict[str, float]:
        """Export the model and evaluate the files, if the arguments ask for that."""
        results: dict[str, float] = {}
        path, sparse = self.sparse.onnx_export_path, self.sparse
        if path is None:
            return results
        exported = trainer.export_onnx(path, sparse.onnx_target, sparse.onnx_opset, sparse.onnx_exporter)
        if self.training.do_eval:
            for stage, found in evaluate_files(trainer, exported, Path(path)):
                results |= save(trainer, stage, found, trainer.eval_dataset)
        return results


def _predict(trainer: TaskTrainer, predictions: Sequence[Predictions]) -> dict[str, float]:
    """Write the files of predictions, and predict_results.json with the metrics of the first one."""
    results: dict[str, float] = {}
    for own in predictions:
        if own.features is None:
            continue
        output = trainer.predict(own.features, metric_key_prefix="predict")
        if trainer.is_world_process_zero():
            lines = "".join(f"{line}\n" for line in own.lines(output))
            atomic_write_text(Path(trainer.args.output_dir, own.file_name), lines)
        results = results or save(trainer, "predict", output.metrics or {}, own.features)
    return results


def run_script(main: Callable[[], object]) -> None:
    """Run a script's main function; an error that the user can correct ends in one line and the exit status 1."""
    try:
        main()
    except SparsificationError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")


def save(trainer: Trainer, stage: str, metrics: dict[str, float], features: Any) -> dict[str, float]:
    """Log metrics and the number of samples, and write them to ``<stage>_results.json`` and all_results.json."""
    metrics[f"{stage}_samples"] = len(features)
    trainer.log_metrics(stage, metrics)
    trainer.save_metrics(stage, metrics)
    return metrics
