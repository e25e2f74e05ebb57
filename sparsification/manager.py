"""Applies the modifiers of a recipe to a model during training."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsification.base import Modifier, TrainingStep
from sparsification.errors import ManagerError as ManagerError
from sparsification.errors import printable
from sparsification.named_modifiers import NamedModifiers
from sparsification.optimizer_hooks import OptimizerHooks
from sparsification.pruning.sparsity import encoder_sparsity
from sparsification.recipe.conflicts import mask_conflicts
from sparsification.recipe.loader import load_recipe
from sparsification.recipe.model import Recipe
from sparsification.recipe.summary import RecipeSummary
from sparsification.samplers import CalibrationSampler, GradientSampler
from sparsification.schedule import curves
from sparsification.targets import Targets

logger = logging.getLogger(__name__)


class ScheduledModifierManager(RecipeSummary):
    """Applies the modifiers of a recipe to a model during training.

    A training loop calls, in this order: ``initialize(model)`` once; ``set_gradient_sampler`` if the recipe prunes by
    sampled gradients; ``on_train_begin(now)`` when training starts or resumes; in each step ``update_loss`` (if
    ``changes_loss_at(now)``), ``after_backward``, ``update``, the optimizer step, ``after_optimizer_step``;
    ``after_last_step`` and ``finalize`` at the end.

    Args:
        recipe: the recipe to apply; None or an empty recipe changes nothing.
    """

    def __init__(self, recipe: Recipe | None = None):
        super().__init__(recipe)
        self._model: nn.Module | None = None
        self._named = NamedModifiers(self.modifiers)
        self._hooks: OptimizerHooks | None = None  # in a loop without Trainer

    @classmethod
    def from_yaml(
        cls,
        source: str | Path,
        recipe_args: str | Mapping[str, object] | None = None,
        *,
        modifiers: Mapping[str, type[Modifier]] | None = None,
    ) -> ScheduledModifierManager:
        """Read a recipe from a file or from text; see ``load_recipe`` for its arguments and errors."""
        return cls(load_recipe(source, recipe_args, modifiers=modifiers))

    @contextlib.contextmanager
    def _error_context(self, modifier: Modifier) -> Iterator[None]:
        """Prefix errors with the recipe and the modifier that they are about."""
        try:
            yield
        except ValueError as error:
            raise ManagerError(f"{self.source}: {type(modifier).__name__}: {printable(str(error))}") from error

    # Hooks, in the order of a run

    def initialize(self, model: nn.Module) -> None:
        """Find what the recipe names in the model, and change its structure; call once, before creating an optimizer.

        Args:
            model: the model to train.

        Raises:
            ManagerError: a name matches nothing, a shape does not fit, or two modifiers mask one weight.
        """
        self._model = model
        targets = Targets(model)
        problems = []
        for modifier in sorted(self.modifiers, key=lambda modifier: not modifier.initialize_first):
            try:
                modifier.initialize(targets)
            except ValueError as error:
                problems.append(f"{type(modifier).__name__}: {error}")
        if problems := problems or list(mask_conflicts(self.modifiers)):
            raise ManagerError("\n".join(f"{self.source}: {printable(problem)}" for problem in problems))

    def skipped_modules(self, example: Mapping[str, Tensor] | None = None) -> list[str]:
        """Modules that the recipe covers and that are left unchanged, one sentence each; call after ``initialize``.

        Args:
            example: inputs of the model, one row is enough; without them, modules that never run are not reported.
        """
        return [
            f"{self.source}: {type(modifier).__name__}: {text}"
            for modifier in self.modifiers
            for text in modifier.skipped_modules(example)
        ]

    def set_gradient_sampler(self, sampler: GradientSampler) -> None:
        """Set the source of gradients of single batches, for the modifiers that prune by them."""
        for modifier in self.modifiers:
            modifier.set_gradient_sampler(sampler)

    def set_calibration_sampler(self, sampler: CalibrationSampler) -> None:
        """Set the source of calibration batches, for the modifiers that prune by the inputs of layers."""
        for modifier in self.modifiers:
            modifier.set_calibration_sampler(sampler)

    def attach_teacher(self, teacher: nn.Module) -> None:
        """Find the modules of the teacher that the recipe names; call once, after ``initialize``.

        Args:
            teacher: frozen and in evaluation mode.

        Raises:
            ManagerError: a name matches nothing, or the number of layers differs from the student's.
        """
        for modifier in self.modifiers:
            with self._error_context(modifier):
                modifier.attach_teacher(teacher)

    def on_train_begin(self, now: TrainingStep) -> None:
        """Call when training starts or resumes, after creating the optimizer."""
        for modifier in self.modifiers:
            modifier.on_train_begin(now)

    def teacher_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Select the inputs that the teacher receives.

        Args:
            inputs: the student's, without labels.

        Returns:
            Those that ``teacher_input_keys`` of the recipe name, or all.
        """
        chosen = [modifier.teacher_inputs for modifier in self.modifiers if modifier.teacher_inputs is not None]
        return {name: value for name, value in inputs.items() if not chosen or any(name in keys for keys in chosen)}

    def update_loss(
        self,
        loss: Tensor,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor] | None,
        now: TrainingStep,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Add the loss terms of all modifiers that are active in this step; the terms do not affect each other.

        In SparseML each modifier receives the sum of the previous ones, in the order of their ends, so that a later
        ``DistillationModifier`` multiplies the loss of the layers by 1 - hardness.

        Args:
            loss: scalar task loss.
            student: outputs by name.
            teacher: the teacher's outputs for the same inputs; None: modifiers that need a teacher add no term.
            now: the step.
            attention_mask: (batch, positions), 0 where padded; None: no padding.

        Returns:
            Scalar loss for the backward pass.

        Raises:
            ManagerError: the outputs of teacher and student do not fit together.
        """
        active = [modifier for modifier in self.modifiers if modifier.changes_loss(now)]
        if teacher is None:
            active, teacher = [modifier for modifier in active if not modifier.needs_teacher], {}
        total = math.prod(modifier.task_share for modifier in active) * loss
        for modifier in active:
            with self._error_context(modifier):
                total = total + modifier.loss_term(loss, student, teacher, attention_mask)
        return total

    def after_backward(self) -> None:
        """Call after the last backward pass of the step, before clipping."""
        for modifier in self.modifiers:
            modifier.after_backward()

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        """Call before the optimizer step: new masks are computed from the weights before it."""
        for modifier in self.modifiers:
            with self._error_context(modifier):
                modifier.update(now, optimizer)
            self._warn_of_fully_pruned(modifier)

    def _warn_of_fully_pruned(self, modifier: Modifier) -> None:
        if names := modifier.pop_fully_pruned():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            logger.warning(f"{self.source}: {type(modifier).__name__}: the mask prunes all weights of {names[0]}{more}")

    def after_optimizer_step(self) -> None:
        """Call after the optimizer step: zero pruned weights again, in reverse order of ``update``."""
        for modifier in reversed(self.modifiers):
            modifier.after_optimizer_step()

    def after_last_step(self) -> None:
        """Call when training has made its last step, before the last evaluation and checkpoint."""
        for modifier in self.modifiers:
            modifier.after_last_step()

    def before_save(self) -> None:
        """Call before the weights are saved."""
        for modifier in self.modifiers:
            modifier.before_save()

    def finalize(self) -> None:
        """Call at the end of training."""
        if self._hooks is not None:
            self._hooks.remove()
        for modifier in self.modifiers:
            modifier.finalize()

    def preview(self) -> None:
        """Call before a trial of one step: all losses and computations of the recipe are active in it."""
        for modifier in self.modifiers:
            modifier.preview()

    def apply_one_shot(self) -> None:
        """Apply the final state to an initialized model at once, without training (one-shot).

        If the recipe quantizes, run calibration batches through the model before ``finalize``; they set the ranges.
        """
        for modifier in self.modifiers:
            with self._error_context(modifier):
                modifier.apply_one_shot()
            self._warn_of_fully_pruned(modifier)

    # In a loop without Trainer

    def modify(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> torch.optim.Optimizer:
        """Apply the recipe at each ``optimizer.step()`` of a plain PyTorch loop, until ``finalize()``.

        Args:
            model: the model to train; its structure may change here.
            optimizer: over parameters of ``model``.
            steps_per_epoch: optimizer steps in an epoch; gradient accumulation and processes are included.

        Returns:
            The same optimizer; schedulers and gradient scalers work as before.

        Raises:
            ManagerError: the recipe does not fit the model, or it distills; use ``PlainLoop`` with a teacher then.
            ValueError: ``steps_per_epoch`` is below 1.
        """
        if self.distills:
            raise ManagerError("the recipe distills: give PlainLoop a teacher and take the loss from update_loss")
        hooks = OptimizerHooks(optimizer, steps_per_epoch)
        self.initialize(model)
        self.apply_in(hooks)
        return optimizer

    def apply_in(self, hooks: OptimizerHooks) -> None:
        """Start training with the recipe in an optimizer's hooks; call after ``initialize`` and ``attach_teacher``."""
        base_rates = [(group, group["lr"]) for group in hooks.optimizer.param_groups]

        def before_step(now: TrainingStep) -> None:
            self.after_backward()
            self.update(now, hooks.optimizer)
            if self.sets_learning_rate:
                for index, (group, base) in enumerate(base_rates):
                    group["lr"] = self.learning_rate(now, index, base)

        self.on_train_begin(hooks.current_step)
        hooks.register(before_step, self.after_optimizer_step)
        self._hooks = hooks

    # Checkpoints and dashboards

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs beside the weights, by ``<modifier>/<name>``."""
        return self._named.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` of a manager of the same recipe returned."""
        self._named.load_state_dict(state)

    def loading(self, state: Mapping[str, Tensor]) -> contextlib.AbstractContextManager[None]:
        """Context in which the model has the structure of the checkpoint with this state, to load its weights."""
        return self._named.loading(state)

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        """Values for dashboards: those of the modifiers, the progress of each, and the sparsity of the encoder."""
        series = self.sparsity()  # names are SparseML's where it has the same series
        for label, modifier in self._named:
            start, end = modifier.active_range
            end = self.max_epochs or end if math.isinf(end) else end
            if start < end < math.inf:  # not if it takes no time, never begins, or the end of the run is unknown
                series[f"{label}/progress"] = curves.progress(now.epoch, start, end)
            for name, value in modifier.metrics(now).items():
                series[name if "/" in name or " " in name else f"{label}/{name}"] = value
        return series

    def sparsity(self) -> dict[str, float]:
        """Sparsity of the matrices of the encoder and of each of its layers, in [0, 1]; empty without a recipe."""
        return encoder_sparsity(self._model) if self._model is not None and self.modifiers else {}
