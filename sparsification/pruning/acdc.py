"""AC/DC: alternating dense and compressed phases."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from sparsification.base import TrainingStep
from sparsification.pruning.masked_weights import first_moments
from sparsification.pruning.ranked import RankedPruning
from sparsification.pruning.scheduled import sparsity_groups
from sparsification.schedule import curves


@dataclass(kw_only=True)
class ACDCPruningModifier(RankedPruning):
    """Alternate dense and compressed phases, each ``update_frequency`` epochs long: AC/DC.

    Peste et al. 2021, arXiv:2106.12379. The first phase is dense and the last one compressed. Each compressed phase
    begins with a new magnitude mask. In a dense phase all weights are trained; those that were pruned start from zero.
    """

    params: list[str] | str
    update_frequency: float = field()  # epochs of a phase
    mask_type: str | list[int] = "unstructured"
    global_sparsity: bool = True
    max_sparsity: float = 1.0
    leave_enabled: bool = True
    compression_sparsity: float  # in the compressed phases
    momentum_buffer_reset: bool = True  # whether a dense phase begins by zeroing the optimizer's first moments

    def __post_init__(self) -> None:
        if self.update_frequency <= 0:
            raise ValueError(f"update_frequency must be greater than 0, got {self.update_frequency:g}")
        super().__post_init__()

    def groups(self) -> list[tuple[float, list[str]]]:
        return sparsity_groups(self.params, self.compression_sparsity)

    def sparsity_at(self, x: float, init: float, final: float) -> float:
        """Sparsity at progress ``x`` in [0, 1] of the window."""
        phases = (self.end_epoch - self.active_range[0]) / self.update_frequency
        return init if x < 1 and _is_dense(int(x * phases + 1e-6), phases - 1e-6) else final

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        start, end = (now.step_at(epoch) for epoch in self.active_range)
        if not start <= now.step <= end:
            return
        length = max(now.step_at(self.update_frequency), 1)
        phase, since = divmod(now.step - start, length)
        if now.step < end and since == 0 and _is_dense(phase, (end - start) / length):
            if self.momentum_buffer_reset and any(self._target_sparsity.values()):
                self._reset_momentum(optimizer)
            self.masked.remove_masks()
            self._target_sparsity = dict.fromkeys(self._final, 0.0)
        elif since == 0 or now.step == end:
            self._update_masks(dict(self._final), now.step, curves.progress(now.epoch, *self.active_range))
        if now.step == end and not self.leave_enabled:
            self.masked.remove_masks()

    def _reset_momentum(self, optimizer: torch.optim.Optimizer) -> None:
        """Zero the first moments: those of the compressed phase would determine the first dense steps."""
        for weight in self.masked.weights.values():
            for moment in first_moments(optimizer, weight):
                moment.zero_()

    def compute_masks(self, targets: Mapping[str, float], step: int, progress: float) -> dict[str, torch.Tensor]:
        return self.masks_by_score(self.magnitude, targets)


def _is_dense(phase: float, phases: float) -> bool:
    """Whether phase ``phase`` (from 0) of ``phases`` is dense; the last phase may be shorter."""
    return phase % 2 == 0 and phase + 1 < phases
