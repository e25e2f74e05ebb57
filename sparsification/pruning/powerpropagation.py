"""Can training itself make small weights smaller, so that less is lost when they are pruned?"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsification.base import Modifier, TrainingStep
from sparsification.targets import Targets


def power(root: Tensor, alpha: float) -> Tensor:
    """The weight w = t |t|^(alpha - 1) of ``root`` t; 1 / alpha undoes alpha."""
    return root.sign() * root.abs().pow(alpha)


def slope(weight: Tensor, alpha: float) -> Tensor:
    """dw/dt = alpha |t|^(alpha - 1), from the weight w: what turns its gradient into that of its root."""
    return alpha * weight.abs().pow(1 - 1 / alpha)


@dataclass(kw_only=True)
class PowerpropagationModifier(Modifier):
    """Let weights move in proportion to a power of their size: large ones faster, small ones hardly.

    Schwarz et al. 2021, arXiv:2110.00296. Each weight is w = t |t|^(alpha - 1), and t is trained. The model holds w
    all the time, so that it is a plain one, and other modifiers see what they prune: for the optimizer's step alone t,
    its gradient and its momentum stand in w's place. t is computed from w anew in each step, which is exact to one
    rounding of t; so nothing has to be undone at the end or kept for a resumed run. What is zero stays zero.
    """

    params: list[str] | str  # names, "re:" patterns, __ALL__ or __ALL_PRUNABLE__
    alpha: float = 1.0  # 1.0 changes nothing; 2.0 to 4.0 in the paper
    strict: bool = True  # whether a pattern that matches nothing is an error

    update_last: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.alpha < math.inf:
            raise ValueError(f"alpha {self.alpha:g} is not 1 or more: below it, gradients at zero have no bound")

    def initialize(self, targets: Targets) -> None:
        self._weights = list(targets.parameters(self.params, strict=self.strict).values())
        self._active = False  # in this step
        self._rooted: list[nn.Parameter] = []  # the weights in whose place their roots stand

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
