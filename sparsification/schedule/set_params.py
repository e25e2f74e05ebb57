"""Setting of parameters to values, once or gradually."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from sparsification.base import Modifier, TrainingStep
from sparsification.schedule import curves
from sparsification.targets import Targets


@dataclass(kw_only=True)
class ParamBase(Modifier):
    """Base of modifiers that write values into parameters."""

    params: list[str] | str  # names, "re:" patterns, __ENCODER__, __ALL_PRUNABLE__ or __ALL__
    params_strict: bool = True  # whether a name or pattern without a match is an error

    def initialize(self, targets: Targets) -> None:
        self._parameters = targets.parameters(self.params, strict=self.params_strict)
        for name, param in self._parameters.items():
            for value in self._values():
                if isinstance(value, list) and tuple(param.shape) != (len(value),):
                    raise ValueError(f"{name} has shape {tuple(param.shape)}, got {len(value)} values")

    def _values(self) -> list[float | list[float]]:
        raise NotImplementedError

    def _fill(self, value: torch.Tensor) -> None:
        for param in self._parameters.values():
            param.detach().copy_(value.to(param.device, param.dtype).expand_as(param))


@dataclass(kw_only=True)
class SetParamModifier(ParamBase):
    """Set parameters once, at ``start_epoch``, to a number or a vector.

    They are set before the optimizer's step and trained afterwards. To keep the values, freeze the parameters with
    ``TrainableParamsModifier``.
    """

    val: float | list[float]  # one number, or one for each element of a vector

    acts_at_start: ClassVar[bool] = True

    def _values(self) -> list[float | list[float]]:
        return [self.val]

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        if now.step == now.step_at(self.active_range[0]):
            self.apply_one_shot()

    def apply_one_shot(self) -> None:
        self._fill(torch.tensor(self.val))


@dataclass(kw_only=True)
class GradualParamModifier(ParamBase):
    """Set parameters along a curve, from ``init_val`` at ``start_epoch`` to ``final_val`` at ``end_epoch``.

    They are set before the optimizer's step every ``update_frequency`` epochs, and trained in between.
    """

    init_val: float | list[float]  # one number, or one for each element of a vector
    final_val: float | list[float]  # one number, or one for each element of a vector
    inter_func: Literal["linear", "cubic", "inverse_cubic"] = "linear"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_epoch == -1:
            raise ValueError("GradualParamModifier needs an end_epoch, at which final_val is reached")

    def _values(self) -> list[float | list[float]]:
        return [self.init_val, self.final_val]

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        start, end = (now.step_at(epoch) for epoch in self.active_range)
        if start <= now.step <= end:
            stride = max(now.step_at(self.update_frequency), 1)
            if (now.step - start) % stride == 0 or now.step == end:
                self._set(curves.progress(now.epoch, *self.active_range))

    def apply_one_shot(self) -> None:
        self._set(1.0)

    def _set(self, x: float) -> None:
        share = curves.SPARSITY_CURVES[self.inter_func](x)
        self._fill(torch.lerp(torch.tensor(self.init_val), torch.tensor(self.final_val), share))
