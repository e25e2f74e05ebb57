"""Averages of the weights at the end of training."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from sparsification.base import MIN_FREQUENCY, Modifier, TrainingStep
from sparsification.targets import ALL, Targets


@dataclass(kw_only=True)
class WeightAveragingModifier(Modifier):
    """Average the weights from ``start_epoch`` on, and replace them by the average at ``end_epoch``.

    ``swa`` is the mean (Izmailov et al. 2018, arXiv:1803.05407), ``ema`` an exponential moving average that begins with
    the first weights; both are computed by ``torch.optim.swa_utils``, in fp32. Weights are read every
    ``update_frequency`` epochs, first at ``start_epoch`` + ``update_frequency``, after the optimizer step. Averaged are
    the parameters that are trainable at the first time; buffers and quantization ranges stay as they are.

    Until the end, evaluations and checkpoints have the weights of the last step; checkpoints store the average beside
    them. The last evaluation and checkpoint of a run have the average. What is pruned at the end is zero in the average
    too, but only models with the same mask have a good one (Zimmer et al. 2023, arXiv:2306.16788): start it after the
    last mask. With several processes, each computes the same average.
    """

    method: Literal["ema", "swa"] = "ema"
    decay: float = 0.999  # of ema, in (0, 1): the average is mainly over the last 1 / (1 - decay) updates

    averages_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.decay < 1:
            raise ValueError(f"decay must be in (0, 1), got {self.decay:g}")
        start, end = self.active_range
        if end - start < max(self.update_frequency, MIN_FREQUENCY):
            raise ValueError(
                "end_epoch must be after start_epoch, by update_frequency or more, got "
                f"{self.start_epoch:g}, {self.end_epoch:g} and {self.update_frequency:g}"
            )
        self._mean: dict[str, Tensor] = {}  # of the updates so far, fp32, by the name of the parameter
        self._count = 0  # updates so far
        self._reads = self._ends = False  # whether this step updates the average; whether it is the window's last one

    def initialize(self, targets: Targets) -> None:
        self._parameters = targets.parameters(ALL)  # a shared one is there once

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        steps = now.step + 1 - now.step_at(self.active_range[0])  # since the start, with this one
        stride = max(now.step_at(self.update_frequency), 1)
        self._reads = self.is_active(now) and steps % stride == 0
        self._ends = now.step + 1 == now.step_at(self.active_range[1])

    def after_optimizer_step(self) -> None:
        if self._reads:
            self._read_weights()
        if self._ends:
            self.after_last_step()

    def _read_weights(self) -> None:
        """Add the weights to the average."""
        if self._count == 0:
            self._mean = {
                name: weight.detach().to(torch.float32, copy=True)
                for name, weight in self._parameters.items()
                if weight.requires_grad
            }
        else:
            add = get_swa_multi_avg_fn() if self.method == "swa" else get_ema_multi_avg_fn(self.decay)
            weights = [self._parameters[name].detach().float() for name in self._mean]
            add(list(self._mean.values()), weights, self._count)
        self._count += 1

    def after_last_step(self) -> None:
        for name, mean in self._mean.items():
            weight = self._parameters[name].detach()
            weight.copy_(mean.masked_fill_(weight == 0, 0.0))  # a mask may be newer than the average
        self._mean, self._count = {}, 0

    def finalize(self) -> None:
        self.after_last_step()

    def state_dict(self) -> dict[str, Tensor]:
        """The average, 4 bytes for each trainable weight; empty outside of the window."""
        means = {f"mean.{name}": mean for name, mean in self._mean.items()}
        return means | {"count": torch.tensor(self._count)} if means else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._count = int(state.get("count", 0))
        self._mean = {}
        for key, mean in state.items():
            if key != "count":
                name = key.removeprefix("mean.")
                weight = self._parameters[name]
                self._mean[name] = mean.to(weight.device).view_as(weight)
