"""Transformers Trainer that trains with a recipe.

``SparseTrainerMixin`` is a base class before any Trainer class and calls a ``ScheduledModifierManager`` at Trainer's
events. It works for every task: a model must return a loss and named outputs.
"""

from __future__ import annotations

import inspect
import itertools
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel, ProgressCallback, TrainerCallback
from transformers.trainer_utils import has_length

from sparsification.errors import SparsificationError
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.model_io import forward_names
from sparsification.modifiers import TrainingStep
from sparsification.quantization.checkpoint import load_quantization
from sparsification.report.dashboards import add_dashboards
from sparsification.report.progress import LogIntervalCallback, TerminalCallback
from sparsification.trainer.atomic_checkpoints import AtomicCheckpointMixin
from sparsification.trainer.distilling import DistillationMixin
from sparsification.trainer.epoch_length import EpochLength
from sparsification.trainer.evaluation import EvaluationMixin
from sparsification.trainer.reporting import ReportMixin
from sparsification.trainer.resuming import ResumeMixin
from sparsification.trainer.sampling import SamplingMixin
from sparsification.trainer.split_weights import split_weights_error
from sparsification.trainer.trainer_base import signature_columns

logger = logging.getLogger(__name__)


FP16_PATIENCE = 20  # non-finite losses in a row; a scaler that starts at 2^16 is down to 1 after 16


class LossError(SparsificationError):
    """The training loss is not finite."""


class RecipeScheduler(LRScheduler):
    """Learning rates of the recipe as a scheduler that Trainer logs, saves and resumes."""

    def __init__(self, optimizer: torch.optim.Optimizer, manager: ScheduledModifierManager, steps_per_epoch: int):
        self._manager = manager
        self._steps_per_epoch = steps_per_epoch
        super().__init__(optimizer)

    def get_lr(self) -> list[float | torch.Tensor]:
        now = TrainingStep(self.last_epoch, self._steps_per_epoch)  # torch calls its steps epochs
        return [self._manager.learning_rate(now, group, float(base)) for group, base in enumerate(self.base_lrs)]

    def state_dict(self) -> dict[str, object]:
        return {name: value for name, value in super().state_dict().items() if name != "_manager"}


class _ManagerCallback(TrainerCallback):
    """Calls the manager at the events that Trainer offers to callbacks only."""

    def __init__(self, trainer: SparseTrainerMixin):
        self._trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self._trainer.manager.on_train_begin(self._trainer.current_step)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self._trainer.manager.update(self._trainer.current_step, self._trainer.optimizer)

    def on_optimizer_step(self, args, state, control, **kwargs):
        self._trainer.manager.after_optimizer_step()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            self._trainer.manager.after_last_step()

    def on_train_end(self, args, state, control, **kwargs):
        self._trainer.manager.finalize()


class SparseTrainerMixin(
    DistillationMixin, EvaluationMixin, ResumeMixin, SamplingMixin, AtomicCheckpointMixin, ReportMixin
):
    """Trains by a recipe: ``class MyTrainer(SparseTrainerMixin, Trainer)``.

    Args:
        manager: the recipe's manager; None trains exactly as the Trainer alone does.
        teacher: model to distill from, with the student's outputs.
        teacher_inputs: columns that the teacher takes, without labels; None: all arguments of its ``forward``.
        teacher_cache: folder of cached teacher logits, which are then computed once, and of hidden states if the recipe
            sets ``cache_hidden_states``; None computes them in every epoch.
        best_model_after_epoch: only later checkpoints can be the best one; None: after the recipe's last change of
            masks or layers.
        *args, **kwargs: arguments of the Trainer.

    Raises:
        ManagerError: the recipe does not fit the model, or its teacher is missing.
    """

    def __init__(
        self,
        *args,
        manager: ScheduledModifierManager | None = None,
        teacher: PreTrainedModel | None = None,
        teacher_inputs: Sequence[str] | None = None,
        teacher_cache: str | Path | None = None,
        best_model_after_epoch: float | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(TerminalCallback)
        self.manager = manager or ScheduledModifierManager()
        self._refuse_split_weights()
        self.manager.initialize(self.model)
        self.manager.set_gradient_sampler(self._sample_gradients)
        self.manager.set_calibration_sampler(self._sample_inputs)
        self._student_inputs = frozenset(forward_names(self.model)) | set(self.label_names)
        taken = () if teacher is None else teacher_inputs or forward_names(teacher)
        self._teacher_inputs = frozenset(taken) - set(self.label_names)
        self._warn_about_skipped_modules()
        load_quantization(self.model, self.model.name_or_path or "")  # if it was saved with quantization ranges
        self._steps_per_epoch = 1  # until train() knows the length of the data
        self._nonfinite_losses = 0  # in a row
        self.teacher = None
        if teacher is not None:
            self.teacher = teacher.eval().requires_grad_(False).to(self.args.device)
            self.manager.attach_teacher(self.teacher)
        if self.teacher is not None and teacher_cache is not None and isinstance(self.train_dataset, datasets.Dataset):
            self._open_teacher_cache(teacher_cache, self.teacher, self.train_dataset)
        self._best_model_after_epoch = (
            self.manager.final_epoch if best_model_after_epoch is None else best_model_after_epoch
        )
        recipe = self.manager.recipe
        if recipe is not None and self.manager.modifiers:
            self.add_callback(_ManagerCallback(self))
            add_dashboards(self, recipe)
            self.add_callback(LogIntervalCallback)
            self._apply_recipe_overrides()

    @property
    def current_step(self) -> TrainingStep:
        """The optimizer step that comes next."""
        return TrainingStep(self.state.global_step, self._steps_per_epoch)

    def _refuse_split_weights(self) -> None:
        """Raise ManagerError if a launcher splits each weight between processes."""
        recipe = self.manager.recipe
        for name, enabled in (("FSDP", self.is_fsdp_enabled), ("DeepSpeed", self.is_deepspeed_enabled)):
            if enabled and recipe is not None and self.manager.modifiers:
                raise ManagerError(f"{recipe.source}: {split_weights_error(name)}")

    def _warn_about_skipped_modules(self) -> None:
        """Warn of modules that the recipe names and its modifiers skip; runs the model once on one row of features."""
        example, dataset = None, self.train_dataset
        if self.manager.quantizes and dataset is not None and has_length(self.train_dataset):
            if isinstance(dataset, datasets.Dataset):
                dataset = self._remove_unused_columns(dataset, description="training")
            row = self.data_collator([dataset[0]])
            names = [name for name, value in row.items() if isinstance(value, torch.Tensor)]
            tensors = {name: row[name] for name in names if name not in self.label_names}
            example = {name: value.to(self.model.device) for name, value in self._for_student(tensors).items()}
        if self.is_world_process_zero():
            for text in self.manager.skipped_modules(example):
                logger.warning(text)

    def _apply_recipe_overrides(self) -> None:
        """Let the recipe set the run's length and learning rate; warn of each flag that it overrides."""
        warn = logger.warning if self.is_world_process_zero() else logger.debug
        epochs = self.manager.max_epochs
        if epochs and epochs != self.args.num_train_epochs:
            warn(
                f"The recipe runs for {epochs:g} epochs: --num_train_epochs {self.args.num_train_epochs:g} is not used."
            )
            self.args.num_train_epochs = epochs
        if epochs and self.args.max_steps > 0:
            warn(f"--max_steps {self.args.max_steps} may end the run before the recipe's {epochs:g} epochs.")
        if self.manager.sets_learning_rate:
            warn(
                "The recipe sets the learning rate: --lr_scheduler_type and --warmup_steps are not used, "
                "--learning_rate only before the recipe's first value."
            )

        if self.manager.quantizes:
            for flag in ("bf16", "fp16", "bf16_full_eval", "fp16_full_eval"):
                if getattr(self.args, flag):
                    warn(
                        f"--{flag} does not apply to fake-quantized modules: Linear layers and attention compute in "
                        "fp32 while they are fake-quantized, because 16 bits would distort their ranges."
                    )

    # Events of Trainer, in the order of a step

    def set_initial_training_values(self, args, dataloader):
        values = super().set_initial_training_values(args, dataloader)
        self._steps_per_epoch = values[1]
        self._epoch_length = None
        if has_length(dataloader):
            self._epoch_length = EpochLength(
                steps=values[1],
                features=values[2],
                batch_size=self._train_batch_size,
                accumulation=args.gradient_accumulation_steps,
                processes=args.world_size,
                drop_last=args.dataloader_drop_last,
            )
        return values

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LRScheduler:
        if self.lr_scheduler is None and self.manager.sets_learning_rate:
            scheduler = RecipeScheduler(optimizer or self.optimizer, self.manager, self._steps_per_epoch)
            vars(self)["lr_scheduler"] = scheduler  # Trainer takes any scheduler, and annotates a LambdaLR
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.args.logging_nan_inf_filter:  # Trainer then reads the loss anyway, to filter the log
            self._check_loss(loss)
        if self.accelerator.sync_gradients:
            self.manager.after_backward()
        return loss

    def _check_loss(self, loss: torch.Tensor | float) -> None:
        """Raise LossError for a non-finite loss; with fp16, whose scaler skips such steps, for several in a row."""
        self._nonfinite_losses = 0 if math.isfinite(loss) else self._nonfinite_losses + 1
        if self._nonfinite_losses >= (FP16_PATIENCE if self.args.fp16 else 1):
            raise LossError(
                f"the loss is {float(loss)} at step {self.state.global_step} (epoch {self.current_step.epoch:.3g}): "
                "the next step would spoil the weights. Try a lower learning rate, gradient clipping "
                "(--max_grad_norm) or --bf16 in place of --fp16; the checkpoints stay as they are"
            )

    def _set_signature_columns_if_needed(self) -> None:
        """Keep the columns that the student or the teacher takes; Trainer considers the student alone."""
        if self._signature_columns is None:
            super()._set_signature_columns_if_needed()
            dropped = set(inspect.signature(self.model.forward).parameters) - self._student_inputs
            columns = signature_columns(self)
            kept = [name for name in columns if name not in dropped]
            columns[:] = kept + [name for name in sorted(self._teacher_inputs) if name not in kept]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            if not self.args.fp16:
                self._check_loss(logs["loss"])
            logs |= self.manager.metrics(TrainingStep(self.state.global_step - 1, self._steps_per_epoch))
        elif "eval_runtime" in logs:  # an evaluation of the model, not of its export or teacher
            sparsity = self.manager.sparsity()
            logs |= {"eval_sparsity": sparsity["sparsity/encoder"]} if sparsity else {}
        super().log(logs, start_time)

    def _determine_best_metric(self, metrics: dict[str, float], trial) -> bool:
        """Compare only checkpoints after the last mask: a model that is not fully pruned yet would score better."""
        last_change = self.current_step.step_at(self._best_model_after_epoch)
        if self.state.global_step <= last_change:
            return False
        return super()._determine_best_metric(metrics, trial)

    def _finalize_training(self, *args, **kwargs):
        self.manager.after_last_step()  # of a run that stopped early; before the best checkpoint is loaded
        return super()._finalize_training(*args, **kwargs)

    # One-shot

    def apply_one_shot(self) -> None:
        """Apply the recipe without training, calibrate quantization ranges on training features, and save the model."""
        model = self.accelerator.unwrap_model(self.model).eval()
        self.manager.apply_one_shot()
        if self.manager.quantizes:
            for batch in itertools.islice(self.get_train_dataloader(), self.manager.num_calibration_steps):
                with torch.no_grad():
                    model(**{name: value for name, value in batch.items() if name not in self.label_names})
        self.manager.finalize()
        self.save_model()
