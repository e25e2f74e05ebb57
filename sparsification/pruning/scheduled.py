"""Base of the techniques that compute new masks at the steps of a schedule.

``update`` decides at which optimizer steps there are new masks, ``sparsity_at`` how sparse each weight is to be then,
and ``compute_masks`` which of its members are pruned: the one method that every technique defines.
"""

import math
import statistics
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, TypeVar

import torch
from torch import Tensor, nn

from sparsification.base import TrainingStep
from sparsification.pruning import masks
from sparsification.pruning.masked_weights import MaskedWeights, PruningBase
from sparsification.pruning.masks import MaskType
from sparsification.schedule import curves
from sparsification.targets import Targets

T = TypeVar("T")
FinalSparsity = float | list[float] | dict[float, list[str] | str]


def sparsity_groups(params: list[str] | str, final_sparsity: FinalSparsity) -> list[tuple[float, list[str]]]:
    """Resolve the keys ``params`` and ``final_sparsity`` into groups of weights.

    Args:
        params: patterns; empty where ``final_sparsity`` is a mapping.
        final_sparsity: one sparsity for all patterns, one for each, or the patterns of each sparsity.

    Returns:
        Pairs of a sparsity and its patterns.

    Raises:
        ValueError: the two keys do not fit together.
    """
    params = [params] if isinstance(params, str) else params
    if isinstance(final_sparsity, dict):
        if params:
            raise ValueError("params must be [] if final_sparsity is a mapping with the params of each group")
        return [(final, [names] if isinstance(names, str) else names) for final, names in final_sparsity.items()]
    if isinstance(final_sparsity, list):
        if len(final_sparsity) != len(params):
            raise ValueError(
                f"final_sparsity must have {len(params)} values, one for each params, got {len(final_sparsity)}"
            )
        return [(final, [pattern]) for final, pattern in zip(final_sparsity, params, strict=True)]
    return [(final_sparsity, params)]


def by_weight(
    groups: Iterable[tuple[T, list[str] | str]], targets: Targets, key: str
) -> dict[str, tuple[T, nn.Parameter]]:
    """Resolve groups of weights.

    Args:
        groups: pairs of a value and the patterns of its weights.
        targets: the parameters to choose from.
        key: of the recipe that has the groups, for messages.

    Returns:
        The value and the parameter of each weight, group by group.

    Raises:
        ValueError: a weight is in two groups, or a pattern matches nothing.
    """
    found: dict[str, tuple[T, nn.Parameter]] = {}
    for value, patterns in groups:
        for name, weight in targets.parameters(patterns).items():
            if name in found:
                raise ValueError(f"{name} is in two groups of {key}")
            found[name] = value, weight
    return found


class ScheduledPruning(PruningBase):
    """Prune with new masks at the steps of a schedule between ``start_epoch`` and ``end_epoch``.

    This class and the bases that derive from it only annotate their recipe keys. A technique is a dataclass: it
    declares those keys in the order in which they are documented, each with its default, and defines ``groups``,
    ``compute_masks`` and, where the sparsity changes between start and end, ``sparsity_at``.
    """

    params: list[str] | str  # names, "re:" patterns, __ENCODER__, __ALL_PRUNABLE__ or __ALL__
    mask_type: MaskType | dict[str, list[str] | str]  # block4, [rows, columns], N:M, or channel for whole columns
    leave_enabled: bool  # whether the last mask holds until the end of training

    changes_weights: ClassVar[bool] = True
    compensates: ClassVar[bool] = False  # updates the kept weights, so that a single mask is a valid choice

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_epoch == -1:
            raise ValueError("pruning needs an end_epoch, the epoch of the last new mask")
        for final in self.final_sparsities:
            if not 0 <= final <= 1:
                raise ValueError(f"final sparsity must be in [0, 1], got {final:g}")

    # What a technique defines

    def groups(self) -> list[tuple[float, list[str]]]:
        """The final sparsities, each with the patterns of its weights."""
        raise NotImplementedError

    def compute_masks(self, targets: Mapping[str, float], step: int, progress: float) -> dict[str, Tensor]:
        """Compute masks of these sparsities.

        The masks that hold until then are in ``self.masked``, the sparsities for which they were made in
        ``self._target_sparsity``. The remaining weights may be changed here; pruned ones are zeroed afterwards.

        Args:
            targets: sparsity in [0, 1] by the name of the weight.
            step: the optimizer step, 0 in one shot.
            progress: fraction of the time between start and end that has passed, 1.0 in one shot.

        Returns:
            Bool masks by the name of the weight, shaped like it, False where pruned.
        """
        raise NotImplementedError

    def sparsity_at(self, x: float, init: float, final: float) -> float:
        """Sparsity of a weight at progress ``x`` in [0, 1] between start and end; all of them fractions."""
        return final

    def _initial_sparsities(self) -> dict[str, float]:
        """The ``init`` of ``sparsity_at`` by weight, from the weights as they are at the start."""
        return dict.fromkeys(self.masked.weights, 0.0)

    def mask_type_of(self, name: str) -> MaskType:
        """The pattern of a weight."""
        assert not isinstance(self.mask_type, dict)
        return self.mask_type

    def _check_weight(self, name: str, weight: Tensor, final: float) -> None:
        """Raise a ValueError for a weight to which its pattern cannot be applied with its final sparsity."""
        masks.compute_mask(weight.abs(), final, self.mask_type_of(name))

    # What the recipe says

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
        if epoch < start:
            return 0.0
        if self.update_frequency > 0:  # the epoch of the last mask
            epoch = start + math.floor((epoch - start) / self.update_frequency + 1e-6) * self.update_frequency
        return self.sparsity_at(curves.progress(epoch, start, end), init or 0.0, final)

    def warnings(self, length: float | None) -> Iterator[str]:
        start, end = self.active_range
        if start == end:
            if not self.compensates:
                yield f"it prunes in one step at epoch {start:g}: set end_epoch after start_epoch to prune gradually"
        elif self.update_frequency > end - start:
            yield (
                f"update_frequency {self.update_frequency:g} is longer than the {end - start:g} epochs from start "
                "to end: there are two masks, one at each"
            )
        pattern = "2:4" if self.mask_type == "tensorrt" else self.mask_type
        for final in self.final_sparsities:
            if final == 1:
                yield "final sparsity 1 prunes all weights; 80 % is 0.8, 1 % is 0.01"
            if isinstance(pattern, str) and ":" in pattern:
                n, m = map(int, pattern.split(":"))
                if not math.isclose(final, 1 - n / m, abs_tol=0.01):  # see ``n_of_m_sparsity``
                    yield (
                        f"final sparsity {final:g} with mask_type {pattern}: the pattern is complete at {1 - n / m:g}, "
                        "which engines need and which is the highest sparsity that it can have"
                    )

    # The moments of a run

    def initialize(self, targets: Targets) -> None:
        found = by_weight(self.groups(), targets, "final_sparsity")
        self._final = {name: final for name, (final, _) in found.items()}
        weights = {name: weight for name, (_, weight) in found.items()}
        self.masked = MaskedWeights(weights)
        self._init = self._initial_sparsities()
        self._target_sparsity: dict[str, float] = {}  # the sparsities of the last masks, by weight
        for name, weight in weights.items():
            try:
                self._check_weight(name, weight.detach(), self._final[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

    def zero_counts_at(self, epoch: float, before: Mapping[str, int]) -> dict[str, int]:
        zeros, end = {}, self.active_range[1]
        for name, final in self._final.items():
            # After the end the weights count as pruned; ``mask_end`` says whether the masks still hold.
            target = self.target_sparsity(final, epoch, self._init[name]) if epoch < end else final
            zeros[name] = masks.num_pruned(self.masked.weights[name].shape, target, self.mask_type_of(name))
        return zeros

    def zero_units(self) -> list[str]:
        weights = {name: w for name, w in self.masked.weights.items() if self.mask_type_of(name) == "channel"}
        for name, weight in weights.items():
            weight.data *= masks.compute_mask(weight.detach().abs(), self._final[name], "channel")
        return list(weights)

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

    def _step_schedule(self, x: float, step: int) -> None:
        """Make new masks for progress ``x`` in [0, 1], at optimizer step ``step``."""
        targets = {name: self.sparsity_at(x, self._init[name], final) for name, final in self._final.items()}
        self._update_masks(targets, step, x)

    def _update_masks(self, targets: dict[str, float], step: int, x: float) -> None:
        """Make new masks of these sparsities; see ``compute_masks``."""
        self._apply_masks(self.compute_masks(targets, step, x))
        self._target_sparsity = targets

    def _apply_masks(self, keeps: Mapping[str, Tensor]) -> None:
        """Zero the pruned weights, and keep them at zero."""
        for name, keep in keeps.items():
            self.masked.set_mask(name, keep)

    def _mean(self, targets: Mapping[str, float]) -> float:
        """Sparsity of all weights together."""
        different = set(targets.values())
        if len(different) == 1:
            return different.pop()
        return statistics.fmean(targets.values(), weights=[self.masked.weights[name].numel() for name in targets])

    # Checkpoints and dashboards

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
