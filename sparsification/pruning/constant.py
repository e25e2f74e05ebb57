"""Sparse transfer learning: a mask of the weights that are zero at the start."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsification.base import TrainingStep
from sparsification.pruning.masked_weights import MaskedWeights, PruningBase
from sparsification.targets import Targets


@dataclass(kw_only=True)
class ConstantPruningModifier(PruningBase):
    """Keep the weights at zero that are zero at ``start_epoch``, for sparse transfer learning.

    Chen et al. 2020, arXiv:2007.12223 (subnetworks that transfer); Zafrir et al. 2021, arXiv:2111.05754.
    """

    params: list[str] | str  # names, "re:" patterns, __ENCODER__, __ALL_PRUNABLE__ or __ALL__

    @property
    def parameter_patterns(self) -> list[str]:
        return [self.params] if isinstance(self.params, str) else self.params

    @property
    def mask_end(self) -> float:
        return self.active_range[1]

    def initialize(self, targets: Targets) -> None:
        self.masked = MaskedWeights(targets.parameters(self.params))

    def zero_counts_at(self, epoch: float, before: Mapping[str, int]) -> dict[str, int]:
        weights = self.masked.weights
        return {name: max(before.get(name, 0), int((weight == 0).sum())) for name, weight in weights.items()}

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        start, end = (now.step_at(epoch) for epoch in self.active_range)
        if now.step == start:
            for name, weight in self.masked.weights.items():
                self.masked.set_mask(name, weight.detach() != 0)
        elif now.step == end:
            self.masked.remove_masks()

    def state_dict(self) -> dict[str, Tensor]:
        return self.masked.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.masked.load_state_dict(state)

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        return {"sparsity": self.masked.sparsity()}
