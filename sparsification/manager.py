"""Who applies a recipe to a model, step by step?"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

from sparsification.base import GradientSampler, Modifier, TrainingStep
from sparsification.errors import ManagerError as ManagerError
from sparsification.errors import printable
from sparsification.named_modifiers import NamedModifiers
from sparsification.optimizer_hooks import OptimizerHooks
from sparsification.pruning.sparsity import encoder_sparsity
from sparsification.recipe.conflicts import mask_conflicts
from sparsification.recipe.loader import load_recipe
from sparsification.recipe.model import Recipe
from sparsification.recipe.summary import RecipeSummary
from sparsification.schedule import curves
from sparsification.targets import Targets

logger = logging.getLogger(__name__)


class ScheduledModifierManager(RecipeSummary):
    """Applies the modifiers of a recipe, each at its time.

    A training loop calls, in this order: ``initialize(model)`` once, ``set_gradient_sampler`` where a recipe needs
    gradients of its own; ``on_train_begin(now)`` when training starts or resumes; in each step ``update_loss`` (where
    ``changes_loss_at`` says so), ``after_backward``, ``update``, the optimizer's own step, ``after_optimizer_step``;
    ``finalize`` at the end.

    Args:
        recipe: what to do; None or an empty recipe does nothing at all.
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
    def _telling(self, modifier: Modifier) -> Iterator[None]:
        """Let an error say which recipe and modifier it is about."""
        try:
            yield
        except ValueError as error:
            raise ManagerError(f"{self.recipe.source}: {type(modifier).__name__}: {printable(str(error))}") from error

    # The moments of a run

    def initialize(self, model: nn.Module) -> None:
        """Find what the recipe names in the model and change its structure; once, before there is an optimizer.

        Raises:
            ManagerError: names that match nothing, shapes that do not fit, two modifiers that claim one weight.
        """
        self._model = model
        targets = Targets(model)
        problems = []
        for modifier in sorted(self.modifiers, key=lambda modifier: not modifier.initialize_first):
            try:
                modifier.initialize(targets)
            except ValueError as error:
                problems.append(f"{type(modifier).__name__}: {error}")
        problems = problems or list(mask_conflicts(self.modifiers))
        if problems:
            where = self.recipe.source if self.recipe else "recipe"
            raise ManagerError("\n".join(f"{where}: {printable(problem)}" for problem in problems))

    def skipped_modules(self, example: Mapping[str, Tensor] | None = None) -> list[str]:
        """What the recipe means and its modifiers leave as it is, one sentence each; after ``initialize``.

        Args:
            example: inputs of the model, one row is enough; without it, nothing is said of modules that never run.
        """
        return [
            f"{self.recipe.source}: {type(modifier).__name__}: {text}"
            for modifier in self.modifiers
            for text in modifier.skipped_modules(example)
        ]

    def set_gradient_sampler(self, sampler: GradientSampler) -> None:
        """Say where the modifiers that prune by gradients of single batches get them from."""
        for modifier in self.modifiers:
            modifier.set_gradient_sampler(sampler)

    def attach_teacher(self, teacher: nn.Module) -> None:
        """Find what the recipe names in the teacher; once, after ``initialize``.

        Raises:
            ManagerError: names that match nothing, or not as many layers as in the student.
        """
        for modifier in self.modifiers:
            with self._telling(modifier):
                modifier.attach_teacher(teacher)

    def on_train_begin(self, now: TrainingStep) -> None:
        """Training starts or resumes; the optimizer exists."""
        for modifier in self.modifiers:
            modifier.on_train_begin(now)

    def teacher_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of the student's inputs, labels left out before, the teacher is given."""
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
        """Add the terms of all modifiers that have one in this step: none of them weakens another one's.

        SparseML hands the sum so far from one modifier to the next, in the order of their ends: a later
        ``DistillationModifier`` multiplies the layers' term by 1 - hardness there.

        Args:
            loss: scalar task loss.
            student: outputs by name.
            teacher: the teacher's outputs for the same inputs; None: what needs a teacher adds no term.
            now: the step.
            attention_mask: (batch, positions), 0 where the inputs are padded; None: nowhere.

        Returns:
            Scalar for the backward pass.

        Raises:
            ManagerError: the teacher's outputs do not fit the student's.
        """
        active = [modifier for modifier in self.modifiers if modifier.changes_loss(now)]
        if teacher is None:
            active, teacher = [modifier for modifier in active if not modifier.needs_teacher], {}
        total = math.prod(modifier.task_share for modifier in active) * loss
        for modifier in active:
            with self._telling(modifier):
                total = total + modifier.loss_term(loss, student, teacher, attention_mask)
        return total

    def after_backward(self) -> None:
        """All gradients of the step are there, clipping comes next."""
        for modifier in self.modifiers:
            modifier.after_backward()

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's step comes next: new masks are computed from the weights before it."""
        for modifier in self.modifiers:
            with self._telling(modifier):
                modifier.update(now, optimizer)
            self._warn_of_empty(modifier)

    def _warn_of_empty(self, modifier: Modifier) -> None:
        if names := modifier.pop_fully_pruned():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            logger.warning(
                f"{self.recipe.source}: {type(modifier).__name__}: the mask leaves nothing of {names[0]}{more}: "
                "all its weights are zero"
            )

    def after_optimizer_step(self) -> None:
        """The optimizer has moved the weights, pruned ones too: undo in reverse what ``update`` did for it."""
        for modifier in reversed(self.modifiers):
            modifier.after_optimizer_step()

    def before_save(self) -> None:
        """The weights are about to be written."""
        for modifier in self.modifiers:
            modifier.before_save()

    def finalize(self) -> None:
        """Training is over."""
        if self._hooks is not None:
            self._hooks.remove()
        for modifier in self.modifiers:
            modifier.finalize()

    def preview(self) -> None:
        """Let a trial of one step go through all that the recipe will do to losses and computation in time."""
        for modifier in self.modifiers:
            modifier.preview()

    def apply_one_shot(self) -> None:
        """Bring an initialized model into its final state at one stroke, without training.

        Where the recipe quantizes, batches have to pass through the model before ``finalize``: they set the ranges.
        """
        for modifier in self.modifiers:
            with self._telling(modifier):
                modifier.apply_one_shot()
            self._warn_of_empty(modifier)

    # In a loop without Trainer

    def modify(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps_per_epoch: int) -> torch.optim.Optimizer:
        """Apply the recipe at each ``optimizer.step()`` of a plain PyTorch loop, until ``finalize()``.

        Args:
            model: the model to train; its structure may change here.
            optimizer: over parameters of ``model``.
            steps_per_epoch: optimizer steps in an epoch, gradient accumulation and processes counted.

        Returns:
            The same optimizer: schedulers and gradient scalers take it as before.

        Raises:
            ManagerError: the recipe does not fit the model, or it distills: ``PlainLoop`` takes a teacher.
            ValueError: ``steps_per_epoch`` is below 1.
        """
        if self.distills:
            raise ManagerError("the recipe distills: give PlainLoop a teacher and take the loss from update_loss")
        hooks = OptimizerHooks(optimizer, steps_per_epoch)
        self.initialize(model)
        self.apply_in(hooks)
        return optimizer

    def apply_in(self, hooks: OptimizerHooks) -> None:
        """Start training with the recipe in an optimizer's hooks; after ``initialize`` and ``attach_teacher``."""
        groups = hooks.optimizer.param_groups
        base_rates = [group["lr"] for group in groups]

        def before_step(now: TrainingStep) -> None:
            self.after_backward()
            self.update(now, hooks.optimizer)
            if self.sets_learning_rate:
                for index, (group, base) in enumerate(zip(groups, base_rates, strict=True)):
                    group["lr"] = self.learning_rate(now, index, base)

        self.on_train_begin(hooks.current_step)
        hooks.register(before_step, self.after_optimizer_step)
        self._hooks = hooks

    # What a resumed run and a dashboard want to know

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs beside the weights, by ``<modifier>/<name>``."""
        return self._named.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` gave to a manager of the same recipe."""
        self._named.load_state_dict(state)

    def loading(self, state: Mapping[str, Tensor]) -> contextlib.AbstractContextManager[None]:
        """Give the model the structure of the checkpoint with this state, while its weights are loaded."""
        return self._named.loading(state)

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        """Series for dashboards, named as SparseML names them where they mean the same.

        Those of the modifiers, how far each of them is in its window, and the zeros in the encoder.
        """
        series = self.sparsity()
        for label, modifier in self._named:
            start, end = modifier.active_range
            end = self.max_epochs or end if math.isinf(end) else end
            if start < end < math.inf:  # else it takes no time, never begins, or nobody knows when the run ends
                series[f"{label}/progress"] = curves.progress(now.epoch, start, end)
            for name, value in modifier.metrics(now).items():
                series[name if "/" in name or " " in name else f"{label}/{name}"] = value
        return series

    def sparsity(self) -> dict[str, float]:
        """Share of zeros in the matrices of the encoder and of each of its layers; nothing without a recipe."""
        return encoder_sparsity(self._model) if self._model is not None and self.modifiers else {}
