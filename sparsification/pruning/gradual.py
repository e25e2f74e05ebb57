"""Gradual pruning: a sparsity that rises along a curve, with any score."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sparsification.pruning.ranked import RankedPruning
from sparsification.pruning.scheduled import FinalSparsity, ScheduledPruning, sparsity_groups
from sparsification.schedule import curves

FROM_PARAM = "__FROM_PARAM__"


class GradualSchedule(ScheduledPruning):
    """Sparsity that rises from ``init_sparsity`` to ``final_sparsity``; annotates keys as ``ScheduledPruning`` does.

    The schedule is that of Zhu & Gupta 2017, arXiv:1710.01878.
    """

    init_sparsity: float | str  # "__FROM_PARAM__": the sparsity that each weight has at the start
    final_sparsity: FinalSparsity  # one for all, one per pattern, or {sparsity: params}
    inter_func: Literal["linear", "cubic", "inverse_cubic"]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_sparsity == FROM_PARAM:
            return
        if isinstance(self.init_sparsity, str):
            raise ValueError(f"init_sparsity must be a number or {FROM_PARAM}, got '{self.init_sparsity}'")
        if not 0 <= self.init_sparsity <= 1:
            raise ValueError(f"init_sparsity must be in [0, 1], got {self.init_sparsity:g}")

    def groups(self) -> list[tuple[float, list[str]]]:
        return sparsity_groups(self.params, self.final_sparsity)

    def sparsity_at(self, x: float, init: float, final: float) -> float:
        return curves.sparsity_at(x, init, final, self.inter_func)

    def target_sparsity(self, final: float, epoch: float, init: float | None = None) -> float:
        own = self.init_sparsity == FROM_PARAM
        if own and epoch < self.active_range[0]:
            return math.nan
        if init is None:
            init = math.nan if isinstance(self.init_sparsity, str) else self.init_sparsity
        return super().target_sparsity(final, epoch, init)

    def warnings(self, length: float | None) -> Iterator[str]:
        yield from super().warnings(length)
        for final in self.final_sparsities:
            if not isinstance(self.init_sparsity, str) and final < self.init_sparsity:
                yield f"final_sparsity {final:g} is below init_sparsity {self.init_sparsity:g}: the sparsity falls"

    def _initial_sparsities(self) -> dict[str, float]:
        if isinstance(self.init_sparsity, str):  # FROM_PARAM
            return self.masked.sparsities()
        return dict.fromkeys(self.masked.weights, self.init_sparsity)


@dataclass(kw_only=True)
class GradualPruning(GradualSchedule, RankedPruning):
    """Prune a growing share of the weights, those with the lowest scores, between ``start_epoch`` and ``end_epoch``.

    A technique defines ``compute_masks``, in most cases as ``masks_by_score`` of its score.
    """

    params: list[str] | str
    init_sparsity: float | str = 0.05
    final_sparsity: FinalSparsity = 0.8
    update_frequency: float = 0.01  # epochs between new masks
    inter_func: Literal["linear", "cubic", "inverse_cubic"] = "cubic"
    mask_type: str | list[int] = "unstructured"
    global_sparsity: bool = False
    max_sparsity: float = 1.0
    leave_enabled: bool = True
