"""Pruning by layer-wise reconstruction, in one shot or at each mask of a run."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sparsification.base import TrainingStep
from sparsification.pruning import masks
from sparsification.pruning.gradual import GradualSchedule
from sparsification.pruning.layer_reconstruction import LayerReconstruction, MaskMethod, solve_layer
from sparsification.pruning.masks import MaskType
from sparsification.pruning.reconstruction import Problem
from sparsification.pruning.scheduled import FinalSparsity, by_weight
from sparsification.samplers import CalibrationSampler
from sparsification.targets import Targets


@dataclass(kw_only=True)
class ReconstructionPruningModifier(GradualSchedule):
    """Prune linear layers one after the other, and fit the outputs of each to those of the dense layer.

    A method chooses the mask of a layer; its kept weights are then the exact least-squares solution on the calibration
    data, with the inputs that the pruned layers before it produce. It needs no labels, and with ``--one_shot`` no
    training. In training it computes each new mask in this way; a new mask can restore pruned weights. With
    ``mask_type: channel`` whole inputs of a layer go: of the second layer of a feed-forward block these are neurons,
    which ``LayerThinningModifier`` then removes from the model. A mapping of ``mask_type`` gives the weights of each
    pattern: ``{block4: [names], unstructured: [names]}``. Meng et al. 2024, arXiv:2406.07831 (ALPS); Frantar & Alistarh
    2023, arXiv:2301.00774 (SparseGPT); Sun et al. 2023, arXiv:2306.11695 (Wanda); Yin et al. 2023, arXiv:2310.05175
    (OWL).
    """

    params: list[str] | str
    init_sparsity: float | str = 0.05
    final_sparsity: FinalSparsity = 0.8
    update_frequency: float = 1.0  # epochs between new masks
    inter_func: Literal["linear", "cubic", "inverse_cubic"] = "cubic"
    mask_type: str | list[int] | dict[str, list[str] | str] = "unstructured"
    leave_enabled: bool = True
    mask_method: MaskMethod = "alps"  # present: keep existing zeros, fit the other weights to the teacher
    refit: bool = True  # solve for the kept weights
    allocation: Literal["uniform", "owl", "error"] = "uniform"  # sparsities by outliers, or by errors
    owl_m: float = 5.0  # with owl: an outlier is above this multiple of the mean
    owl_lmbda: float = 0.08  # with owl: half of the largest difference between two sparsities
    reference: Literal["self", "teacher"] = "self"  # model whose layer outputs are the targets
    num_samples: int = 128  # training examples for calibration
    batch_size: int = 16  # of calibration
    dampening_frac: float = 0.01  # fraction of the inputs' mean square that is added to the diagonal
    block_size: int = 128  # columns for which sparsegpt, or allocation by error, chooses the mask at once

    samples_data: ClassVar[bool] = True
    compensates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_calibration(self.num_samples, self.batch_size, self.dampening_frac)
        for mask_type in self.mask_type if isinstance(self.mask_type, dict) else [self.mask_type]:
            check_block_size(self.block_size, mask_type)
        if self.allocation != "uniform":
            if len(self.groups()) > 1:
                raise ValueError(f"allocation {self.allocation} is for one final_sparsity, not one for each group")
            if isinstance(self.mask_type, dict):
                raise ValueError(f"allocation {self.allocation} is for one mask_type, not one for each group")
            pattern = masks.parse_mask_type(self.mask_type)
            if isinstance(pattern, str) and ":" in pattern:
                raise ValueError(f"allocation {self.allocation}: every layer has the sparsity of mask_type '{pattern}'")
            if self.mask_method == "present":
                raise ValueError(f"allocation {self.allocation}: mask_method present keeps the zeros that are there")
        if self.mask_method == "present" and not (self.refit and self.reference == "teacher"):
            raise ValueError(
                "mask_method present needs refit: true and reference: teacher; without them it changes nothing"
            )

    @property
    def needs_reference(self) -> bool:
        return self.reference == "teacher"

    @property
    def final_sparsities(self) -> list[float]:
        return [] if self.mask_method == "present" else super().final_sparsities

    def initialize(self, targets: Targets) -> None:
        groups = self.mask_type.items() if isinstance(self.mask_type, dict) else ()
        found = by_weight(groups, targets, "mask_type")
        self._mask_types: dict[str, MaskType] = {name: mask_type for name, (mask_type, _) in found.items()}
        super().initialize(targets)
        if others := self._mask_types.keys() - self._final.keys():
            raise ValueError(f"{min(others)} has a mask_type, but no final_sparsity")
        self._layers = LayerReconstruction(targets.model, self.masked.weights)
        self._allocated = self.allocation == "uniform"

    def mask_type_of(self, name: str) -> MaskType:
        if isinstance(self.mask_type, dict) and name not in self._mask_types:
            raise ValueError("no group of mask_type has it")
        return self._mask_types.get(name) or super().mask_type_of(name)

    def set_calibration_sampler(self, sampler: CalibrationSampler) -> None:
        self._layers.sampler = sampler

    def attach_teacher(self, teacher: nn.Module) -> None:
        if self.needs_reference:
            self._layers.attach_teacher(teacher)

    def zero_counts_at(self, epoch: float, before: Mapping[str, int]) -> dict[str, int]:
        if self.mask_method != "present":
            return super().zero_counts_at(epoch, before)
        weights = self.masked.weights
        return {name: max(before.get(name, 0), int((weight == 0).sum())) for name, weight in weights.items()}

    def _step_schedule(self, x: float, step: int) -> None:
        self._batches = self._layers.batches(self.num_samples, self.batch_size, step)
        if not self._allocated:
            self._allocate()
        super()._step_schedule(x, step)
        self._batches = []

    def _allocate(self) -> None:
        """Replace the final sparsities of the weights; done once, before the first mask."""
        final = self.final_sparsities[0]
        if self.allocation == "owl":
            found = self._layers.by_outliers(self._batches, final, self.owl_m, self.owl_lmbda)
        else:
            assert not isinstance(self.mask_type, dict)  # see __post_init__
            found = self._layers.by_errors(self._batches, final, self.mask_type, self.block_size, self.dampening_frac)
        self._final |= found
        self._allocated = True

    def compute_masks(self, targets: Mapping[str, float], step: int, progress: float) -> dict[str, Tensor]:
        if self.needs_reference and self._layers.teacher is None:
            raise ValueError("reference: teacher needs a teacher: give --distill_teacher")

        def solve(name: str, problem: Problem) -> tuple[Tensor, Tensor]:
            mask_type = self.mask_type_of(name)
            return solve_layer(problem, targets[name], mask_type, self.mask_method, self.refit, self.block_size)

        return dict(self._layers.reconstruct(self._batches, self.dampening_frac, solve))

    def _update_masks(self, targets: dict[str, float], step: int, x: float) -> None:
        super()._update_masks(targets, step, x)
        if self.mask_method == "present":
            self._target_sparsity = self.masked.sparsities()

    def state_dict(self) -> dict[str, Tensor]:
        errors, final = self._layers.errors, self._final if self.allocation != "uniform" and self._allocated else {}
        numbers = {
            "errors": [errors[name] for name in self.masked.weights if name in errors],
            "final_sparsity": list(final.values()),
        }
        return super().state_dict() | {
            name: torch.tensor(values, dtype=torch.float64) for name, values in numbers.items()
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        names = list(self.masked.weights)
        if len(state["errors"]):
            self._layers.errors = dict(zip(names, state["errors"].tolist(), strict=True))
        if len(state["final_sparsity"]):
            self._final = dict(zip(names, state["final_sparsity"].tolist(), strict=True))
            self._allocated = True

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        series, errors = super().metrics(now), self._layers.errors
        if errors:
            series["reconstruction_error"] = sum(errors.values()) / len(errors)
        return series


def check_calibration(num_samples: int, batch_size: int, dampening_frac: float) -> None:
    """Check the keys of calibration.

    Raises:
        ValueError: a number is too small.
    """
    for key, value in (("num_samples", num_samples), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"{key} must be at least 1, got {value}")
    if dampening_frac <= 0:
        raise ValueError(f"dampening_frac must be above 0, got {dampening_frac:g}")


def check_block_size(block_size: int, mask_type: masks.MaskType) -> None:
    """Check that a number of columns holds whole blocks or groups of a pattern.

    Raises:
        ValueError: it does not.
    """
    pattern = masks.parse_mask_type(mask_type)
    if pattern == "block4":
        width = 4
    elif isinstance(pattern, tuple):
        width = pattern[1]
    else:
        width = int(pattern.split(":")[1]) if ":" in pattern else 1
    if block_size < 1 or block_size % width:
        raise ValueError(f"block_size must be a multiple of {width} with mask_type {mask_type}, got {block_size}")
