"""Which weights go, and when: a growing share of the smallest ones."""

import statistics
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsification import masks, schedules
from sparsification.modifiers.base import Clock
from sparsification.modifiers.masked_weights import MaskedWeights, PruningBase
from sparsification.targets import Targets

FROM_PARAM = "__FROM_PARAM__"


@dataclass(kw_only=True)
class GMPruningModifier(PruningBase):
    """Zero the smallest weights, a growing share of them between ``start_epoch`` and ``end_epoch``.

    Zhu & Gupta 2017, arXiv:1710.01878. A weight that was pruned can come back only through a later mask, and since it
    is zero it does not: masks only grow.
    """

    params: list[str] | str  # names, "re:" patterns, __ALL__ or __ALL_PRUNABLE__
    init_sparsity: float | str = 0.05  # "__FROM_PARAM__": what each weight already has
    final_sparsity: float | list[float] | dict[float, list[str] | str] = (
        0.8  # one for all, one per pattern, or {s: params}
    )
    update_frequency: float = 0.01  # epochs between new masks
    inter_func: Literal["linear", "cubic", "inverse_cubic"] = "cubic"
    mask_type: str | list[int] = "unstructured"  # block4, [rows, columns], or N:M
    global_sparsity: bool = False  # one ranking over all weights instead of one for each
    leave_enabled: bool = True  # whether the last mask holds until the end of training

    changes_model: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_epoch == -1:
            raise ValueError("gradual pruning needs an end_epoch, the moment at which final_sparsity is reached")
        masks.parse_mask_type(self.mask_type)
        if self.global_sparsity and self.mask_type != "unstructured":
            raise ValueError("global_sparsity ranks single weights: it goes with mask_type 'unstructured' only")
        if isinstance(self.init_sparsity, str) and self.init_sparsity != FROM_PARAM:
            raise ValueError(f"init_sparsity '{self.init_sparsity}' is neither a number nor {FROM_PARAM}")
        groups = self.groups()
        if self.global_sparsity and len(groups) > 1:
            raise ValueError("global_sparsity knows one final_sparsity, not one for each group")
        sparsities = [final for final, _ in groups] + [s for s in [self.init_sparsity] if s != FROM_PARAM]
        for sparsity in sparsities:
            if not 0 <= sparsity <= 1:
                raise ValueError(f"a sparsity of {sparsity} is no fraction between 0 and 1")

    def groups(self) -> list[tuple[float, list[str]]]:
        """The final sparsities, each with the patterns that it is for."""
        params = [self.params] if isinstance(self.params, str) else self.params
        if isinstance(self.final_sparsity, dict):
            if params:
                raise ValueError("final_sparsity names the parameters of each group: params must be [] then")
            return [
                (final, [names] if isinstance(names, str) else names) for final, names in self.final_sparsity.items()
            ]
        if isinstance(self.final_sparsity, list):
            if len(self.final_sparsity) != len(params):
                raise ValueError(f"{len(self.final_sparsity)} values of final_sparsity for {len(params)} params")
            return [(final, [pattern]) for final, pattern in zip(self.final_sparsity, params, strict=True)]
        return [(self.final_sparsity, params)]

    def initialize(self, targets: Targets) -> None:
        self._final: dict[str, float] = {}
        weights = {}
        for final, patterns in self.groups():
            for name, weight in targets.parameters(patterns).items():
                if name in weights:
                    raise ValueError(f"two groups of final_sparsity claim {name}")
                weights[name], self._final[name] = weight, final
        self.masked = MaskedWeights(weights)
        if self.init_sparsity == FROM_PARAM:
            self._init = self.masked.sparsities()
        else:
            self._init = dict.fromkeys(weights, self.init_sparsity)
        self._target: float | None = None  # mean over the weights, for the dashboards
        for name, weight in weights.items():
            try:
                masks.keep_mask(self._score(weight), self._final[name], self.mask_type)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def update(self, clock: Clock, optimizer: torch.optim.Optimizer) -> None:
        start, end = (clock.step_at(epoch) for epoch in self.window)
        if not start <= clock.step <= end:
            return
        stride = max(clock.step_at(self.update_frequency), 1)
        if (clock.step - start) % stride == 0 or clock.step == end:
            self._prune(schedules.progress(clock.epoch, *self.window))
        if clock.step == end and not self.leave_enabled:
            self.masked.release()

    def apply_once(self) -> None:
        self._prune(1.0)

    def _score(self, weight: Tensor) -> Tensor:
        return weight.detach().abs()

    def _prune(self, x: float) -> None:
        """Make new masks for progress ``x`` in [0, 1] of the window."""
        weights = self.masked.weights
        goals = {
            name: schedules.sparsity_at(x, self._init[name], self._final[name], self.inter_func) for name in weights
        }
        sizes = [weight.numel() for weight in weights.values()]
        different = set(goals.values())
        self._target = different.pop() if len(different) == 1 else statistics.fmean(goals.values(), weights=sizes)
        if self.global_sparsity:
            scores = [self._score(weight) for weight in weights.values()]
            for name, keep in zip(weights, masks.global_masks(scores, self._target), strict=True):
                self.masked.set_mask(name, keep)
        else:
            for name, weight in weights.items():
                self.masked.set_mask(name, masks.keep_mask(self._score(weight), goals[name], self.mask_type))

    def state_dict(self) -> dict[str, Tensor]:
        init = torch.tensor(list(self._init.values()), dtype=torch.float64)
        target = torch.tensor(float("nan") if self._target is None else self._target, dtype=torch.float64)
        return {"init_sparsity": init, "target": target} | {
            f"mask.{name}": mask for name, mask in self.masked.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._init = dict(zip(self.masked.weights, state["init_sparsity"].tolist(), strict=True))
        self._target = None if state["target"].isnan() else state["target"].item()
        self.masked.load_state_dict({k.removeprefix("mask."): v for k, v in state.items() if k.startswith("mask.")})

    def scalars(self, clock: Clock) -> dict[str, float]:
        series = {"sparsity": self.masked.sparsity(), "target_sparsity": self._target or 0.0}
        if self.log_types == "__ALL__":
            series |= {f"ParamPruning/{name}": value for name, value in self.masked.sparsities().items()}
        return series


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
