"""Powerpropagation: a parametrization that moves small weights less, so that pruning them costs less."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsification.base import Modifier, TrainingStep
from sparsification.targets import Targets


def power(root: Tensor, alpha: float) -> Tensor:
    """Signed power w = t |t|^(alpha - 1).

    Args:
        root: t, any shape.
        alpha: exponent, > 0; 1 / alpha inverts alpha.

    Returns:
        w, shaped like ``root``.
    """
    return root.sign() * root.abs().pow(alpha)


def slope(weight: Tensor, alpha: float) -> Tensor:
    """Derivative dw/dt = alpha |t|^(alpha - 1) of ``power``, by which the gradient of w becomes that of t.

    Args:
        weight: w, any shape.
        alpha: exponent, at least 1.

    Returns:
        The derivative, shaped like ``weight``.
    """
    return alpha * weight.abs().pow(1 - 1 / alpha)


@dataclass(kw_only=True)
class PowerpropagationModifier(Modifier):
    """Train weights w = t |t|^(alpha - 1) by t, so that large weights move fast and small ones hardly move.

    Schwarz et al. 2021, arXiv:2110.00296. The model contains w, so that it is a plain model and other modifiers prune
    w; only for the optimizer step are w and its gradient replaced by those of t. t is computed from w in each step,
    exact up to one rounding, so there is nothing to undo at the end and no state to checkpoint. Weights that are zero
    stay zero.
    """

    params: list[str] | str  # names, "re:" patterns, __ENCODER__, __ALL_PRUNABLE__ or __ALL__
    alpha: float = 1.0  # 1.0 changes nothing; 2.0 to 4.0 in the paper
    strict: bool = True  # whether a pattern that matches nothing is an error

    update_last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.alpha < math.inf:
            raise ValueError(f"alpha must be at least 1 and finite, got {self.alpha:g}")

    def initialize(self, targets: Targets) -> None:
        self._weights = list(targets.parameters(self.params, strict=self.strict).values())
        self._active = False  # in this step
        self._rooted: list[nn.Parameter] = []  # weights that contain t at the moment

    def on_train_begin(self, now: TrainingStep) -> None:
        self._active = self.is_active(now)

    def after_backward(self) -> None:
        if self._active:
            for weight in self._trained():
                if weight.grad is not None:
                    weight.grad.mul_(slope(weight.detach(), self.alpha))

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        if self._active:
            self._rooted = self._trained()
            for weight in self._rooted:
                weight.detach().copy_(power(weight.detach(), 1 / self.alpha))
        self._active = self.is_active(TrainingStep(now.step + 1, now.steps_per_epoch))

    def after_optimizer_step(self) -> None:
        for weight in self._rooted:
            weight.detach().copy_(power(weight.detach(), self.alpha))
        self._rooted = []

    def _trained(self) -> list[nn.Parameter]:
        return [weight for weight in self._weights if weight.grad is not None]

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        return {"alpha": self.alpha if self.is_active(now) else 1.0}
