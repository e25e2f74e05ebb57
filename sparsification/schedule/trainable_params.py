"""Which parameters learn, and when?"""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsification.base import Clock, Modifier
from sparsification.targets import Targets


@dataclass(kw_only=True)
class TrainableParamsModifier(Modifier):
    """Freeze parameters, or let them learn, from ``start_epoch`` until ``end_epoch``; then as it was before."""

    params: list[str] | str
    trainable: bool
    params_strict: bool = True  # whether a pattern without a match is an error

    sets_requires_grad: ClassVar[bool] = True

    @property
    def parameter_patterns(self) -> list[str]:
        return [self.params] if isinstance(self.params, str) else self.params

    def initialize(self, targets: Targets) -> None:
        parameters = targets.parameters(self.params, strict=self.params_strict).values()
        self._before = [(param, param.requires_grad) for param in parameters]

    def begin(self, clock: Clock) -> None:
        self._be(self.was_active(clock))

    def _be(self, active: bool) -> None:
        for param, before in self._before:
            param.requires_grad_(self.trainable if active else before)
            if not param.requires_grad:
                param.grad = None  # or the optimizer would take one more step with it

    def update(self, clock: Clock, optimizer: torch.optim.Optimizer) -> None:
        start, end = self.window
        if clock.step in (clock.step_at(start), clock.step_at(end)):
            self._be(self.is_active(clock))

    def finalize(self) -> None:
        for param, before in self._before:
            param.requires_grad_(before)
