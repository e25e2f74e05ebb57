"""Steps of a training script that are the same for every task: arguments, data files, training, export and report.

A script chooses the model's class, the features and the metric, and leaves the rest to ``TaskRun``; see
``examples/run_glue.py`` and ``examples/run_ner.py``.
"""

import logging
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, DatasetDict, load_dataset
from safetensors import SafetensorError
from transformers import (
    AutoTokenizer,
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.hf_argparser import DataClassType

from sparsification.arguments import SparsificationArguments, load_manager, prepare_export, teacher_cache_dir
from sparsification.distillation.teacher import load_teacher
from sparsification.errors import SparsificationError
from sparsification.export.onnx import refuse_unrecordable
from sparsification.manager import ScheduledModifierManager
from sparsification.tasks.errors import DataError, UsageError
from sparsification.tasks.output_dir import digest, find_checkpoint, only_run_in, refuse_used_folder
from sparsification.trainer.run_lock import RunLock
from sparsification.trainer.sparse_trainer import SparseTrainer

if TYPE_CHECKING:
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

logger = logging.getLogger(__name__)


@dataclass
class TaskArguments:
    """The model and the data, with the flags of Transformers' scripts."""

    model_name_or_path: str = field(metadata={"help": "Folder of a saved model, or its name on the hub."})
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Folder or name of the tokenizer, if it is not the model's."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Folder for downloads."})
    token: str | None = field(default=None, metadata={"help": "Access token of the hub."})
    dataset_name: str | None = field(default=None, metadata={"help": "Name of a data set on the hub."})
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    train_file: str | None = field(default=None, metadata={"help": "Training data: CSV, JSON or JSON lines."})
    validation_file: str | None = field(default=None, metadata={"help": "Evaluation data: CSV, JSON or JSON lines."})
    max_seq_length: int = field(default=128, metadata={"help": "Maximum number of tokens of a feature."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Train on the first records only."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on the first records only."})
    overwrite_output_dir: bool = field(
        default=False,
        metadata={
            "help": "Train from the start in an output_dir that is not empty. Its checkpoints are removed when this "
            "run has saved its first one."
        },
    )

    @property
    def hub_settings(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained``."""
        return {"cache_dir": self.cache_dir, "token": self.token}

    def load_splits(self) -> DatasetDict:
        """Load the data: "train" and "validation", as many records of each as the arguments allow.

        Raises:
            DataError: no data is named, or it cannot be loaded.
        """
        given = {"train": self.train_file, "validation": self.validation_file}
        files = {split: file for split, file in given.items() if file is not None}
        if self.dataset_name is None and not files:
            raise DataError("no data: give --dataset_name, or --train_file and --validation_file")
        try:
            if self.dataset_name is not None:
                loaded = load_dataset(
                    self.dataset_name, self.dataset_config_name, cache_dir=self.cache_dir, token=self.token
                )
            else:
                loaded = load_dataset(_file_kind(files.values()), data_files=files, cache_dir=self.cache_dir)
        except (OSError, ValueError) as error:
            raise DataError(f"{self.dataset_name or ', '.join(files.values())}: {error}") from error
        limits = {"train": self.max_train_samples, "validation": self.max_eval_samples}
        return DatasetDict(
            {
                split: data if (limit := limits.get(split)) is None else data.select(range(min(limit, len(data))))
                for split, data in loaded.items()
            }
        )


def _file_kind(files: Iterable[str]) -> str:
    """Name of the datasets library's reader of some files."""
    readers = {".csv": "csv", ".json": "json", ".jsonl": "json"}
    kinds = {readers.get(Path(file).suffix.lower()) for file in files}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        raise DataError(f"{', '.join(files)}: expected files that all end in .csv, or in .json or .jsonl")
    return kind


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
        """Read a command line and the recipe that it names, and set the random seed.

        Args:
            kind: dataclass of the script's own arguments.
            argv: the arguments; None means this process's own.

        Raises:
            SparsificationError: the recipe is wrong, or there is no compiler for the export.
        """
        argv = sys.argv[1:] if argv is None else argv
        parser = HfArgumentParser(map(DataClassType, (kind, TrainingArguments, SparsificationArguments)))
        task, training, sparse = parser.parse_args_into_dataclasses(list(argv))
        manager = load_manager(sparse.recipe, sparse.recipe_args, sparse.one_shot)
        prepare_export(sparse.onnx_export_path, sparse.onnx_target)
        set_seed(training.seed)
        return cls(argv, task, training, sparse, manager)

    def load_model(
        self, auto_class: "type[_BaseAutoModelClass]", labels: Sequence[str], **tokenizer_kwargs: Any
    ) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
        """Load the tokenizer and the model.

        Args:
            auto_class: class that loads the model, e.g. ``AutoModelForTokenClassification``.
            labels: names of the labels, in the order of their numbers.
            **tokenizer_kwargs: further arguments of the tokenizer.

        Raises:
            UsageError: they cannot be loaded.
        """
        name, settings = self.task.model_name_or_path, self.task.hub_settings
        tokenizer_name = self.task.tokenizer_name or name
        numbers = {label: number for number, label in enumerate(labels)}
        try:
            tokenizer = AutoTokenizer.from_pretrained(tokenizer_name, **settings, **tokenizer_kwargs)
            model = auto_class.from_pretrained(name, id2label=dict(enumerate(labels)), label2id=numbers, **settings)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise UsageError(f"--model_name_or_path {name}: {error}") from error
        return tokenizer, model

    def make_trainer(
        self,
        auto_class: "type[_BaseAutoModelClass]",
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        splits: Mapping[str, Dataset],
        **kwargs: Any,
    ) -> SparseTrainer:
        """Make the Trainer, with the teacher if the recipe distills.

        Args:
            auto_class: class that loads the teacher.
            model: the model to train.
            tokenizer: the model's.
            splits: features to train on ("train") and to evaluate on ("validation").
            **kwargs: further arguments of Trainer: collator and metrics.

        Raises:
            ManagerError: the recipe does not fit the model, or the teacher is missing or does not fit it.
            ExportError: the arguments ask for an export, which cannot record such a model.
            DataError: a split that the arguments need is missing.
        """
        calibrates = self.sparse.one_shot and self.manager.samples_data
        needed = {"train": self.training.do_train or calibrates, "validation": self.training.do_eval}
        for split, is_needed in needed.items():
            if is_needed and split not in splits:
                raise DataError(f"no {split} data: give --{split}_file, or a --dataset_name that has it")
        if self.sparse.onnx_export_path is not None:
            refuse_unrecordable(model)
        recipe = self.manager.recipe
        distills = self.manager.distills or self.manager.needs_reference
        distilling = recipe.source if recipe is not None and distills else None
        settings = self.task.hub_settings
        teacher = load_teacher(self.sparse.distill_teacher, auto_class, model, tokenizer, distilling, **settings)
        return SparseTrainer(
            manager=self.manager,
            teacher=teacher,
            teacher_cache=teacher_cache_dir(self.sparse, self.task.cache_dir),
            best_model_after_epoch=self.sparse.best_model_after_epoch,
            model=model,
            args=self.training,
            train_dataset=splits.get("train"),
            eval_dataset=splits.get("validation"),
            processing_class=tokenizer,
            **kwargs,
        )

    def execute(self, trainer: SparseTrainer, metrics: Mapping[str, str]) -> dict[str, float]:
        """Train or apply the recipe in one shot, evaluate, export, and write the report: what the arguments ask for.

        The output folder is locked for this run. Training resumes from the last checkpoint in it.

        Args:
            trainer: from ``make_trainer``.
            metrics: names of the task's metrics, without prefix, and their labels; the last one counts most.

        Returns:
            All metrics, as in all_results.json.

        Raises:
            SparsificationError: the folder is used by another run or holds other files, or a step of the run failed.
        """
        command = digest(self.manager, self.training, self.task, self.sparse)
        with only_run_in(self.training, self.sparse.onnx_export_path, command) as lock:
            results = self._train(trainer, lock)
            export_path = self.sparse.onnx_export_path
            if self.training.do_eval:
                results |= save(trainer, "eval", trainer.evaluate())
            if self.training.do_eval and trainer.teacher is not None:
                results |= save(trainer, "eval_teacher", trainer.evaluate_teacher())
            if export_path is not None:
                trainer.export_onnx(
                    export_path, self.sparse.onnx_target, self.sparse.onnx_opset, self.sparse.onnx_exporter
                )
                if self.training.do_eval:
                    results |= save(trainer, "eval_onnx", trainer.evaluate_onnx(export_path))
            if self.manager.recipe is not None:
                teacher = self.sparse.distill_teacher
                teacher = self.task.model_name_or_path if teacher == "self" else teacher
                trainer.write_report(["python", sys.argv[0], *self.argv], metrics, results, teacher, export_path)
            if self.training.push_to_hub:
                trainer.push_to_hub()
            else:
                trainer.create_model_card()
            trainer.forget_end()
        return results

    def _train(self, trainer: SparseTrainer, lock: RunLock | None) -> dict[str, float]:
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
        return save(trainer, "train", results)


def run_script(main: Callable[[], object]) -> None:
    """Run a script's main function; an error that the user can correct ends in one line and the exit status 1."""
    try:
        main()
    except SparsificationError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: error: {error}")


def save(trainer: Trainer, stage: str, metrics: dict[str, float]) -> dict[str, float]:
    """Log metrics and write them to ``<stage>_results.json`` and all_results.json."""
    trainer.log_metrics(stage, metrics)
    trainer.save_metrics(stage, metrics)
    return metrics
