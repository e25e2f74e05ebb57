"""How does sparsity grow: how much goes when, whatever decides what goes?"""

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsification.base import TrainingStep
from sparsification.pruning import masks
from sparsification.pruning.masked_weights import MaskedWeights, PruningBase
from sparsification.schedule import curves
from sparsification.targets import Targets

FROM_PARAM = "__FROM_PARAM__"


@dataclass(kw_only=True)
class GradualPruning(PruningBase):
    """Prune a growing share of the weights, those with the lowest scores, between ``start_epoch`` and ``end_epoch``.

    The schedule is that of Zhu & Gupta 2017, arXiv:1710.01878. A technique says what a score is, in ``_score``.
    """

    params: list[str] | str  # names, "re:" patterns, __ENCODER__, __ALL_PRUNABLE__ or __ALL__
    init_sparsity: float | str = 0.05  # "__FROM_PARAM__": what each weight already has
    final_sparsity: float | list[float] | dict[float, list[str] | str] = (
        0.8  # one for all, one per pattern, or {s: params}
    )
    update_frequency: float = 0.01  # epochs between new masks
    inter_func: Literal["linear", "cubic", "inverse_cubic"] = "cubic"
    mask_type: str | list[int] = "unstructured"  # block4, [rows, columns], or N:M
    global_sparsity: bool = False  # one ranking over all weights instead of one for each
    leave_enabled: bool = True  # whether the last mask holds until the end of training

    changes_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_epoch == -1:
            raise ValueError("gradual pruning needs an end_epoch, the moment at which final_sparsity is reached")
        self._check_mask_type()
        if isinstance(self.init_sparsity, str) and self.init_sparsity != FROM_PARAM:
            raise ValueError(f"init_sparsity '{self.init_sparsity}' is neither a number nor {FROM_PARAM}")
        groups = self.groups()
        if self.global_sparsity and len(groups) > 1:
            raise ValueError("global_sparsity knows one final_sparsity, not one for each group")
        sparsities = [final for final, _ in groups] + [s for s in [self.init_sparsity] if s != FROM_PARAM]
        for sparsity in sparsities:
            if not 0 <= sparsity <= 1:
                raise ValueError(f"a sparsity of {sparsity} is no fraction between 0 and 1")

    def _check_mask_type(self) -> None:
        """Raise a ValueError for a pattern that is not one of this technique's."""
        pattern = masks.parse_mask_type(self.mask_type)
        if self.global_sparsity and isinstance(pattern, str) and ":" in pattern:
            raise ValueError(f"mask_type '{pattern}' prunes all weights alike: it needs global_sparsity False")

    def _check_shape(self, weight: Tensor, final: float) -> None:
        """Raise a ValueError for a weight to which the pattern cannot be applied with its final sparsity."""
        masks.compute_mask(weight.abs(), final, self.mask_type)

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

    def sparsity_at(self, x: float, init: float, final: float) -> float:
        """Sparsity of a weight at progress ``x`` in [0, 1] of the window; all of them fractions."""
        return curves.sparsity_at(x, init, final, self.inter_func)

    @property
    def parameter_patterns(self) -> list[str]:
        return [pattern for _, patterns in self.groups() for pattern in patterns]

    @property
    def final_sparsities(self) -> list[float]:
        return [final for final, _ in self.groups()]

    @property
    def mask_end(self) -> float:
        return math.inf if self.leave_enabled else self.active_range[1]

    def target_sparsity(self, final: float, epoch: float, init: float | None = None) -> float:
        start, end = self.active_range
        if epoch >= end:
            return final if self.leave_enabled else 0.0
        own = self.init_sparsity == FROM_PARAM
        if epoch < start:
            return math.nan if own else 0.0
        if init is None:
            init = math.nan if own else self.init_sparsity
        if self.update_frequency > 0:  # the epoch of the last mask
            epoch = start + math.floor((epoch - start) / self.update_frequency + 1e-6) * self.update_frequency
        return self.sparsity_at(curves.progress(epoch, start, end), init, final)

    def warnings(self, length: float | None) -> Iterator[str]:
        start, end = self.active_range
        if start == end:
            yield f"it prunes all at once at epoch {start:g}: gradual pruning needs a window"
        elif self.update_frequency > end - start:
            yield (
                f"update_frequency {self.update_frequency:g} is longer than its window of {end - start:g} epochs: "
                "there are two masks, one at the start and one at the end"
            )
        pattern = "2:4" if self.mask_type == "tensorrt" else self.mask_type
        for final in self.final_sparsities:
            if self.init_sparsity != FROM_PARAM and final < self.init_sparsity:
                yield f"final_sparsity {final:g} is below init_sparsity {self.init_sparsity:g}: pruning runs backwards"
            if final == 1:
                yield "final_sparsity 1 leaves nothing of the weights; 80 % are 0.8, 1 % is 0.01"
            if isinstance(pattern, str) and ":" in pattern:
                n, m = map(int, pattern.split(":"))
                if not math.isclose(final, 1 - n / m, abs_tol=0.01):  # so near, it is completed
                    yield (
                        f"final_sparsity {final:g} with {pattern}: the pattern is complete at {1 - n / m:g}, "
                        "engines need it complete, and it cannot have more"
                    )

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
        self._target_sparsity: dict[str, float] = {}  # the sparsities of the last masks, by weight
        for name, weight in weights.items():
            try:
                self._check_shape(weight.detach(), self._final[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def zero_counts_at(self, epoch: float, before: Mapping[str, int]) -> dict[str, int]:
        zeros, end = {}, self.active_range[1]
        for name, final in self._final.items():
            # From the end on it counts as pruned, whether or not the masks hold any longer: see ``mask_end``.
            target = self.target_sparsity(final, epoch, self._init[name]) if epoch < end else final
            zeros[name] = masks.num_pruned(self.masked.weights[name].shape, target, self.mask_type)
        return zeros

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        start, end = (now.step_at(epoch) for epoch in self.active_range)
        if not start <= now.step <= end:
            return
        stride = max(now.step_at(self.update_frequency), 1)
        if (now.step - start) % stride == 0 or now.step == end:
            self._step_schedule(curves.progress(now.epoch, *self.active_range), now.step)
        if now.step == end and not self.leave_enabled:
            self.masked.remove_masks()

    def apply_one_shot(self) -> None:
        self._step_schedule(1.0, 0)

    def _score(self, name: str) -> Tensor:
        """The importance of each member of a weight, shaped like it."""
        raise NotImplementedError

    def _step_schedule(self, x: float, step: int) -> None:
        """Make new masks for progress ``x`` in [0, 1] of the window, at optimizer step ``step``."""
        self._update_masks(
            {name: self.sparsity_at(x, self._init[name], self._final[name]) for name in self._final}, step
        )

    def _update_masks(self, targets: dict[str, float], step: int) -> None:
        """Make new masks of these sparsities."""
        self._apply_masks(self._compute_masks(targets))
        self._target_sparsity = targets

    def _compute_masks(self, targets: dict[str, float]) -> dict[str, Tensor]:
        """Bool masks of these sparsities."""
        if self.global_sparsity:
            scores = [self._score(name) for name in targets]
            return dict(zip(targets, masks.global_masks(scores, self._mean(targets), self.mask_type), strict=True))
        return {name: masks.compute_mask(self._score(name), target, self.mask_type) for name, target in targets.items()}

    def _apply_masks(self, keeps: dict[str, Tensor]) -> None:
        """Zero what the bool masks leave out, and hold it there."""
        for name, keep in keeps.items():
            self.masked.set_mask(name, keep)

    def _mean(self, targets: dict[str, float]) -> float:
        different = set(targets.values())
        if len(different) == 1:
            return different.pop()
        return statistics.fmean(targets.values(), weights=[self.masked.weights[name].numel() for name in targets])

    def state_dict(self) -> dict[str, Tensor]:
        numbers = {"init_sparsity": self._init, "goals": self._target_sparsity}
        return {name: torch.tensor(list(values.values()), dtype=torch.float64) for name, values in numbers.items()} | {
            f"mask.{name}": mask for name, mask in self.masked.state_dict().items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._init = dict(zip(self.masked.weights, state["init_sparsity"].tolist(), strict=True))
        targets = state["goals"].tolist()
        self._target_sparsity = dict(zip(self.masked.weights, targets, strict=True)) if targets else {}
        self.masked.load_state_dict({k.removeprefix("mask."): v for k, v in state.items() if k.startswith("mask.")})

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        target = self._mean(self._target_sparsity) if self._target_sparsity else 0.0
        series = {"sparsity": self.masked.sparsity(), "target_sparsity": target}
        series["mask_changes"] = self.masked.pop_change_ratio()
        if self.log_types == "__ALL__":
            series |= {f"ParamPruning/{name}": value for name, value in self.masked.sparsities().items()}
        return series
