"""Freezing and unfreezing of parameters."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsification.base import Modifier, TrainingStep
from sparsification.targets import Targets


@dataclass(kw_only=True)
class TrainableParamsModifier(Modifier):
    """Freeze or unfreeze parameters from ``start_epoch`` to ``end_epoch``, then restore their previous state."""

    params: list[str] | str  # names, "re:" patterns, __ALL__ or __ALL_PRUNABLE__
    trainable: bool  # value of requires_grad
    params_strict: bool = True  # whether a name or pattern without a match is an error

    sets_requires_grad: ClassVar[bool] = True

    @property
    def parameter_patterns(self) -> list[str]:
        return [self.params] if isinstance(self.params, str) else self.params

    def initialize(self, targets: Targets) -> None:
        parameters = targets.parameters(self.params, strict=self.params_strict).values()
        self._before = [(param, param.requires_grad) for param in parameters]

    def on_train_begin(self, now: TrainingStep) -> None:
        self._set_active(self.was_active(now))

    def _set_active(self, active: bool) -> None:
        for param, before in self._before:
            param.requires_grad_(self.trainable if active else before)
            if not param.requires_grad:
                param.grad = None  # the optimizer would use it in the next step

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        start, end = self.active_range
        if now.step in (now.step_at(start), now.step_at(end)):
            self._set_active(self.is_active(now))

    def finalize(self) -> None:
        for param, before in self._before:
            param.requires_grad_(before)
