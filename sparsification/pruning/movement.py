"""Movement pruning."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsification.base import TrainingStep
from sparsification.pruning.gradual import GradualPruning
from sparsification.targets import Targets

# The learning rate of the scores, SparseML's value. It scales all of them, so masks do not depend on it.
RATE = 0.01


@dataclass(kw_only=True)
class MovementPruningModifier(GradualPruning):
    """Prune the weights that move towards zero, a growing fraction between ``start_epoch`` and ``end_epoch``.

    Sanh et al. 2020, arXiv:2005.07683. The score of a weight is the sum of -weight x gradient over all steps so far; it
    rises in steps away from zero. As in SparseML, a pruned weight is zero and its score does not change. If the scores
    of other weights fall below it, the weight comes back and is trained from zero. With --fp16 leave gradient clipping
    on, because it removes the loss scale from the gradients.
    """

    def initialize(self, targets: Targets) -> None:
        super().initialize(targets)
        self._scores = {name: torch.zeros_like(weight) for name, weight in self.masked.weights.items()}

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        for name, weight in self.masked.weights.items():
            if weight.grad is not None and weight.grad.isfinite().all():
                self._scores[name].addcmul_(weight.detach(), weight.grad, value=-RATE)
        super().update(now, optimizer)

    def apply_one_shot(self) -> None:
        raise ValueError("movement pruning cannot be done in one shot: its scores come from training")

    def compute_masks(self, targets: Mapping[str, float], step: int, progress: float) -> dict[str, Tensor]:
        return self.masks_by_score(self._scores.__getitem__, targets)

    def state_dict(self) -> dict[str, Tensor]:
        return super().state_dict() | {f"score.{name}": score for name, score in self._scores.items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        for name, score in self._scores.items():
            score.copy_(state[f"score.{name}"])
