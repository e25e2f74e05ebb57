"""Which weights go: the smallest ones."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsification.pruning.gradual import GradualPruning


@dataclass(kw_only=True)
class GMPruningModifier(GradualPruning):
    """Zero the smallest weights, a growing share of them between ``start_epoch`` and ``end_epoch``.

    Zhu & Gupta 2017, arXiv:1710.01878. A weight that was pruned can come back only through a later mask, and since it
    is zero it does not: masks only grow.
    """

    phased: bool = False  # accepted for SparseML's sake; True: use ACDCPruningModifier
    score_type: str = "magnitude"  # likewise; any other: use the modifier of that name

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.phased:
            raise ValueError("phased: use ACDCPruningModifier")
        if self.score_type != "magnitude":
            raise ValueError(f"score_type '{self.score_type}': use MovementPruningModifier or another one of that name")

    def compute_masks(self, targets: Mapping[str, float], step: int, progress: float) -> dict[str, Tensor]:
        return self.masks_by_score(self.magnitude, targets)


@dataclass(kw_only=True)
class MagnitudePruningModifier(GMPruningModifier):
    """Gradual magnitude pruning, each weight ranked by itself: ``GMPruningModifier`` under its later name."""

    def __post_init__(self) -> None:
        if self.global_sparsity:
            raise ValueError("MagnitudePruningModifier ranks each weight by itself; use GlobalMagnitudePruningModifier")
        super().__post_init__()


@dataclass(kw_only=True)
class GlobalMagnitudePruningModifier(GMPruningModifier):
    """Gradual magnitude pruning with one ranking over all weights: the more redundant matrices lose more."""

    global_sparsity: bool = True

    def __post_init__(self) -> None:
        if not self.global_sparsity:
            raise ValueError("GlobalMagnitudePruningModifier ranks all weights together; use MagnitudePruningModifier")
        super().__post_init__()
