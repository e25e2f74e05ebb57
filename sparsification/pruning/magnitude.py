"""Gradual magnitude pruning."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsification.pruning.gradual import GradualPruning


@dataclass(kw_only=True)
class GMPruningModifier(GradualPruning):
    """Prune the weights with the smallest magnitudes, a growing fraction between ``start_epoch`` and ``end_epoch``.

    Zhu & Gupta 2017, arXiv:1710.01878. Pruned weights are zero, so later masks prune them again: while the sparsity
    rises, no weight comes back.
    """

    phased: bool = False  # SparseML's key, must be false: ACDCPruningModifier alternates phases
    score_type: str = "magnitude"  # SparseML's key, must be magnitude: other scores have modifiers of their own

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.phased:
            raise ValueError("phased must be false: use ACDCPruningModifier")
        if self.score_type != "magnitude":
            raise ValueError(f"score_type must be 'magnitude', got '{self.score_type}': use the modifier of that score")

    def compute_masks(self, targets: Mapping[str, float], step: int, progress: float) -> dict[str, Tensor]:
        return self.masks_by_score(self.magnitude, targets)


@dataclass(kw_only=True)
class MagnitudePruningModifier(GMPruningModifier):
    """Gradual magnitude pruning with one ranking for each weight: ``GMPruningModifier`` under SparseML's later name."""

    def __post_init__(self) -> None:
        if self.global_sparsity:
            raise ValueError("global_sparsity must be false: use GlobalMagnitudePruningModifier")
        super().__post_init__()


@dataclass(kw_only=True)
class GlobalMagnitudePruningModifier(GMPruningModifier):
    """Gradual magnitude pruning with one ranking over all weights, so that more redundant matrices become sparser."""

    global_sparsity: bool = True

    def __post_init__(self) -> None:
        if not self.global_sparsity:
            raise ValueError("global_sparsity must be true: use MagnitudePruningModifier")
        super().__post_init__()
