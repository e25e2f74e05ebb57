"""Weight decay of the optimizer."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from sparsification.base import Modifier, TrainingStep


@dataclass(kw_only=True)
class SetWeightDecayModifier(Modifier):
    """Set the optimizer's weight decay from ``start_epoch`` on."""

    weight_decay: float
    param_groups: list[int] | None = None  # indices of the optimizer's parameter groups; None: all
    constant_logging: bool = False  # no effect: the weight decay is always logged

    acts_at_start: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.param_groups = self.param_groups or None  # in SparseML [] also means all groups
        self._is_set = False

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        self._is_set = now.step >= now.step_at(self.active_range[0])
        if self._is_set:
            for index, group in enumerate(optimizer.param_groups):
                if self.param_groups is None or index in self.param_groups:
                    group["weight_decay"] = self.weight_decay

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        return {"Modifier Weight Decay": self.weight_decay} if self._is_set else {}
