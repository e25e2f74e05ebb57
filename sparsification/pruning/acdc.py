"""Can a pruned network go on exploring? By being dense again, now and then."""

from dataclasses import dataclass, field

import torch

from sparsification.base import TrainingStep
from sparsification.pruning.gradual import GradualPruning
from sparsification.pruning.masked_weights import first_moments


@dataclass(kw_only=True)
class ACDCPruningModifier(GradualPruning):
    """Alternate dense and compressed phases, each ``update_frequency`` epochs long: AC/DC.

    Peste et al. 2021, arXiv:2106.12379. The first phase is dense, the last one compressed, whatever its number; each
    compressed phase begins with a new mask by magnitude. In a dense phase all weights learn, those that were pruned
    from zero.
    """

    compression_sparsity: float  # in the compressed phases
    update_frequency: float = field()  # epochs of a phase
    global_sparsity: bool = True  # one ranking over all weights instead of one for each
    momentum_buffer_reset: bool = True  # whether the optimizer's first moments begin anew with a dense phase
    init_sparsity: float = field(init=False, default=0.0)
    final_sparsity: float = field(init=False, default=0.0)
    inter_func: str = field(init=False, default="linear")

    def __post_init__(self) -> None:
        self.final_sparsity = self.compression_sparsity
        if self.update_frequency <= 0:
            raise ValueError(f"update_frequency {self.update_frequency:g}: a phase lasts longer than 0 epochs")
        super().__post_init__()

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
                self._forget_momentum(optimizer)
            self.masked.remove_masks()
            self._target_sparsity = dict.fromkeys(self._final, 0.0)
        elif since == 0 or now.step == end:
            self._update_masks(dict(self._final), now.step)
        if now.step == end and not self.leave_enabled:
            self.masked.remove_masks()

    def _forget_momentum(self, optimizer: torch.optim.Optimizer) -> None:
        """Momentum of the compressed phase would decide where the pruned weights' neighbours go first."""
        for weight in self.masked.weights.values():
            for moment in first_moments(optimizer, weight):
                moment.zero_()

    def _score(self, name: str) -> torch.Tensor:
        return self.masked.weights[name].detach().abs()


def _is_dense(phase: int, phases: float) -> bool:
    """Whether phase ``phase`` (from 0) of ``phases``, of which the last may be shorter, is a dense one."""
    return phase % 2 == 0 and phase + 1 < phases
