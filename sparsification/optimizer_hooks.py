"""Hooks that call functions before and after each step of an optimizer, with the step's place in the schedule."""

from collections.abc import Callable

import torch

from sparsification.base import TrainingStep


class OptimizerHooks:
    """Counts the steps of an optimizer and calls two functions around each of them.

    A step that a gradient scaler skips never reaches the optimizer: it calls nothing and is not counted.

    Args:
        optimizer: the optimizer of a training loop.
        steps_per_epoch: optimizer steps in an epoch, gradient accumulation and processes counted.

    Raises:
        ValueError: ``steps_per_epoch`` is below 1.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, steps_per_epoch: int):
        if steps_per_epoch < 1:
            raise ValueError(f"steps_per_epoch must be at least 1, got {steps_per_epoch}")
        self.optimizer = optimizer
        self._step = 0
        self._steps_per_epoch = steps_per_epoch
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    @property
    def current_step(self) -> TrainingStep:
        """The optimizer step that comes next."""
        return TrainingStep(self._step, self._steps_per_epoch)

    def register(self, before: Callable[[TrainingStep], None], after: Callable[[], None]) -> None:
        """Call ``before`` with the current step before each step of the optimizer, and ``after`` after it."""

        def after_step(*_: object) -> None:
            after()
            self._step += 1

        self._handles = [
            self.optimizer.register_step_pre_hook(lambda *_: before(self.current_step)),
            self.optimizer.register_step_post_hook(after_step),
        ]

    def remove(self) -> None:
        """Leave the optimizer as it was before ``register``."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
