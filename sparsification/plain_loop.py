"""Recipes in a plain PyTorch loop, without Trainer: with a teacher, or with gradients of single batches.

``PlainLoop`` puts a manager into the hooks of an optimizer: the loop itself stays as it is. ``manager.modify`` is the
short form for all other recipes.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sparsification.base import TrainingStep
from sparsification.errors import ManagerError
from sparsification.manager import ScheduledModifierManager
from sparsification.optimizer_hooks import OptimizerHooks
from sparsification.samplers import GradientSampler


class PlainLoop:
    """Applies a recipe at each ``optimizer.step()`` of a loop.

    Masks are computed from the weights before the step and applied again after it. Learning rates are set if the recipe
    has any. If a gradient scaler skips a step, the recipe skips it too.

    Args:
        manager: the recipe's manager, not initialized yet.
        model: the model to train; its structure may change here.
        optimizer: over parameters of ``model``.
        steps_per_epoch: optimizer steps in an epoch; gradient accumulation and number of processes are included.
        teacher: for recipes that distill, a model with the student's outputs. It is frozen here.
        gradient_sampler: for recipes that prune by gradients of single batches (oBERT, M-FAC, RigL); see
            ``sparsification.base.GradientSampler``.

    Raises:
        ManagerError: the recipe does not fit the model, or distills and there is no teacher.
        ValueError: ``steps_per_epoch`` is below 1.

    >>> import torch
    >>> from sparsification import ScheduledModifierManager
    >>> from sparsification.plain_loop import PlainLoop
    >>> model = torch.nn.Linear(8, 8)
    >>> optimizer = torch.optim.AdamW(model.parameters())
    >>> manager = ScheduledModifierManager.from_yaml('''
    ... modifiers:
    ...   - !GMPruningModifier {params: [weight], final_sparsity: 0.75, start_epoch: 0.0, end_epoch: 2.0}
    ... ''')
    >>> loop = PlainLoop(manager, model, optimizer, steps_per_epoch=4)
    >>> for step in range(12):
    ...     optimizer.zero_grad()
    ...     model(torch.randn(2, 8)).square().mean().backward()
    ...     optimizer.step()
    >>> loop.finalize()
    >>> int((model.weight == 0).sum())
    48
    """

    def __init__(
        self,
        manager: ScheduledModifierManager,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        steps_per_epoch: int,
        *,
        teacher: nn.Module | None = None,
        gradient_sampler: GradientSampler | None = None,
    ):
        if manager.distills and teacher is None:
            raise ManagerError("the recipe distills: give PlainLoop a teacher and take the loss from update_loss")
        self.manager = manager
        self.optimizer = optimizer
        self.teacher = teacher.eval().requires_grad_(False) if teacher is not None else None
        self._hooks = OptimizerHooks(optimizer, steps_per_epoch)
        manager.initialize(model)
        if gradient_sampler is not None:
            manager.set_gradient_sampler(gradient_sampler)
        if self.teacher is not None:
            manager.attach_teacher(self.teacher)
        manager.apply_in(self._hooks)

    @property
    def current_step(self) -> TrainingStep:
        """The optimizer step that comes next."""
        return self._hooks.current_step

    def update_loss(self, loss: Tensor, outputs: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        """Add the distillation terms that are active at this step to a task loss.

        Args:
            loss: scalar.
            outputs: the student's, by name.
            inputs: the batch from which they were computed; the teacher is called with it.

        Returns:
            Scalar loss for the backward pass; ``loss`` itself without a teacher or if the recipe does not distill now.
        """
        if self.teacher is None or not self.manager.distills_at(self.current_step):
            return loss
        with torch.no_grad():
            teacher_outputs = self.teacher(**self.manager.teacher_inputs(inputs))
        return self.manager.update_loss(loss, outputs, teacher_outputs, self.current_step, inputs.get("attention_mask"))

    def finalize(self) -> None:
        """End the training: the recipe leaves the optimizer and brings the model into its final state."""
        self.manager.finalize()


def modify(
    manager: ScheduledModifierManager, model: nn.Module, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.Optimizer:
    """Apply a recipe at each ``optimizer.step()``: ``manager.modify(model, optimizer, steps_per_epoch)``."""
    return manager.modify(model, optimizer, steps_per_epoch)
