"""Report, model card and dashboard results at the end of a Trainer's run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import datasets
import torch
from transformers.modelcard import TASK_MAPPING

from sparsification.distillation.teacher_cache import SAMPLE_INDEX, fingerprint
from sparsification.export.onnx import ONNX_FILE
from sparsification.export.verify import OnnxModel
from sparsification.model_io import input_names
from sparsification.modifiers import TrainingStep
from sparsification.recipe.model import RECIPE_FILE
from sparsification.report import collect
from sparsification.report.dashboards import log_files, log_results
from sparsification.report.environment import machine_text, versions
from sparsification.report.model_card import complete_card, has_losses
from sparsification.report.profiling import BATCH
from sparsification.report.results import RunResult, redact_secrets
from sparsification.report.tables import result_table
from sparsification.runtime.rewrite import SPARSE_FILE
from sparsification.trainer.trainer_base import TrainerBase, signature_columns

if TYPE_CHECKING:
    from sparsification.trainer.trainer_base import SizedDataset

EXPORTED = {"onnx": ("ONNX", ONNX_FILE), "onnx_sparse": ("ONNX sparse", SPARSE_FILE)}


class ReportMixin(TrainerBase):
    """Reports the run of a Trainer that has a ``manager`` and a ``teacher``."""

    result: RunResult | None = None  # set by write_report

    def write_report(
        self,
        command: Sequence[str],
        metrics: Mapping[str, str],
        results: Mapping[str, float],
        teacher_folder: str | Path | None = None,
        onnx_folder: str | Path | None = None,
    ) -> None:
        """Write the report of a run by a recipe into its output folder, and send its results to the dashboards.

        Without a recipe there is no report.

        Args:
            command: the command line; values of access tokens are not shown.
            metrics: names of the task's metrics, without prefix -> labels; the last one is the main metric.
            results: of the run's evaluations: ``eval_`` of the model, ``eval_teacher_`` of the teacher,
                ``eval_onnx_`` and ``eval_onnx_sparse_`` of exported files.
            teacher_folder: folder with the teacher's weights, if there is one.
            onnx_folder: folder that ``export_onnx`` has written, if it has.
        """
        recipe = self.manager.recipe
        if recipe is None or not self.is_world_process_zero():
            return
        folder = Path(self.args.output_dir)
        model = self.accelerator.unwrap_model(self.model).eval()
        features = self._timing_batch()
        batch = self._graph_inputs(features)
        on_cpu = self.args.device.type == "cpu"
        models = []
        if self.teacher is not None:
            where = Path(teacher_folder) if teacher_folder is not None else None
            found = collect.scores(results, metrics, "eval_teacher")
            timed = self._for_teacher(features) if on_cpu else None
            models.append(collect.torch_result("teacher", self.teacher, where, found, timed))
        found = collect.scores(results, metrics, "eval")
        student = collect.torch_result("student", model, folder, found, batch if on_cpu else None)
        models.append(student)
        exported = _exported(onnx_folder)
        for prefix, (name, path) in exported.items():
            found = collect.scores(results, metrics, f"eval_{prefix}")
            models.append(collect.onnx_result(name, path, OnnxModel(path, threads=1), student, found, batch))
        self.result = RunResult(
            name=folder.resolve().name,
            command=shlex.join(redact_secrets(list(command))),
            recipe_source=recipe.source,
            recipe=recipe.to_yaml(),
            metrics=dict(metrics),
            models=models,
            tokens=next(iter(batch.values())).shape[1] if batch else None,
            machine=machine_text(),
            versions=versions(),
            data=self._data_texts(),
            epochs=self.state.epoch or 0.0,
            windows=collect.windows(self.manager),
        )
        self.log(collect.dashboard_figures(models))
        from sparsification.report.render import write_documents  # takes a second: matplotlib

        write_documents(self.result, self.state.log_history, folder)
        log_results(self, result_table(self.result))
        files = {"recipe": folder / RECIPE_FILE} | {prefix: path for prefix, (_, path) in exported.items()}
        log_files(self.args.report_to, files)

    def _timing_batch(self) -> dict[str, torch.Tensor]:
        """A batch of features for latency and throughput; empty if there are no data."""
        dataset = self._sample_dataset()
        if dataset is None:
            return {}
        if isinstance(dataset, datasets.Dataset):
            dataset = self._remove_unused_columns(dataset, description="timing")
        features = [dataset[index] for index in range(min(BATCH, len(dataset)))]
        return self._prepare_inputs(self.data_collator(features))

    def _sample_dataset(self) -> SizedDataset | None:
        """The evaluation data, of several data sets the first; without them the training data."""
        dataset = self.train_dataset if self.eval_dataset is None else self.eval_dataset
        return next(iter(dataset.values())) if isinstance(dataset, dict) else dataset

    def _graph_inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The part of a batch that the model needs for its outputs, without labels and columns for the teacher."""
        model = self.accelerator.unwrap_model(self.model)
        names = input_names(model, self.processing_class, self.label_names)
        return {name: batch[name] for name in names if name in batch}

    def _data_texts(self) -> dict[str, str]:
        """Number of features of each split, and a hash of the columns that the model uses."""
        self._set_signature_columns_if_needed()
        columns, texts = signature_columns(self), {}
        for split, dataset in (("training", self.train_dataset), ("evaluation", self.eval_dataset)):
            if isinstance(dataset, datasets.Dataset):
                seen = sorted(name for name in dataset.column_names if name in columns and name != SAMPLE_INDEX)
                texts[split] = f"{len(dataset):,} features, sha256 {fingerprint(dataset, seen)[:16]}"
        return texts

    def create_model_card(self, *args, **kwargs) -> None:
        """Write the model card, completed with the run's results. An evaluation alone keeps the card of a training."""
        path = Path(self.args.output_dir, "README.md")
        trained = self.state.global_step > 0
        if not self.is_world_process_zero() or (not trained and self.result is None and path.is_file()):
            return
        task, dataset = (_first(kwargs.get(name)) for name in ("tasks", "dataset_tags"))
        if not has_losses(self.state.log_history):
            # Without a loss Trainer finds no results, and prints that it drops the task and the data for lack of them.
            kwargs |= {"tasks": [], "dataset_tags": []}
        super().create_model_card(*args, **kwargs)
        if path.is_file():
            task = task or _task_of(self.accelerator.unwrap_model(self.model))
            changed = self._overruled() if trained else None
            complete_card(path, self.state.log_history, task, dataset, self.result, changed)

    def _overruled(self) -> dict[str, str]:
        """Texts of the card for the arguments that the recipe overrides; an empty text removes the line."""
        if not self.manager.sets_learning_rate:
            return {}
        steps = self._steps_per_epoch
        clocks = TrainingStep(0, steps), TrainingStep(self.state.global_step - 1, steps)
        first, last = (self.manager.learning_rate(now, 0, self.args.learning_rate) for now in clocks)
        names = [type(modifier).__name__ for modifier in self.manager.modifiers if modifier.sets_learning_rate]
        return {
            "learning_rate": f"{first:.4g} in the first step, {last:.4g} in the last one, by the recipe",
            "lr_scheduler_type": f"the recipe's ({', '.join(dict.fromkeys(names))})",
            "lr_scheduler_warmup_steps": "",
        }


def _first(value: str | Sequence[str] | None) -> str | None:
    """The value itself, or the first one of a list."""
    return value if isinstance(value, str) or value is None else next(iter(value), None)


def _task_of(model: torch.nn.Module) -> str | None:
    """The hub's name of the task of a model's class."""
    name = type(model).__name__
    return next(
        (task for task, names in TASK_MAPPING.items() if isinstance(names, Mapping) and name in names.values()), None
    )


def _exported(folder: str | Path | None) -> dict[str, tuple[str, Path]]:
    """The exported files that exist: prefix of their evaluation -> name in tables, and path."""
    if folder is None:
        return {}
    paths = {prefix: (name, Path(folder, file)) for prefix, (name, file) in EXPORTED.items()}
    return {prefix: (name, path) for prefix, (name, path) in paths.items() if path.is_file()}
