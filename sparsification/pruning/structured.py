"""Structured pruning: whole rows, columns or attention heads."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsification.pruning import masks
from sparsification.pruning.gradual import GradualSchedule
from sparsification.pruning.masked_weights import MaskedWeights
from sparsification.pruning.scheduled import FinalSparsity
from sparsification.targets import ALL_PRUNABLE, Targets


def unit_norms(weight: Tensor, dimension: int, size: int = 1) -> Tensor:
    """Euclidean norm of each unit of a weight.

    Args:
        weight: (out_features, in_features).
        dimension: 0 if a unit consists of rows, 1 if of columns.
        size: number of rows or columns in a unit.

    Returns:
        (units,).
    """
    return weight.transpose(0, dimension).reshape(weight.shape[dimension] // size, -1).norm(dim=1)


def spread(keep: Tensor, shape: torch.Size, dimension: int, size: int = 1) -> Tensor:
    """Expand the mask of units to the mask of a weight or bias.

    Args:
        keep: bool, (units,).
        shape: of the weight or the bias.
        dimension: 0 if a unit consists of rows, 1 if of columns.
        size: number of rows or columns in a unit.

    Returns:
        Bool mask of ``shape``.
    """
    lines = keep.repeat_interleave(size)
    return (lines[:, None] if len(shape) == 2 and dimension == 0 else lines).expand(shape)


@dataclass(kw_only=True)
class StructuredPruningModifier(GradualSchedule):
    """Prune the rows (filters), columns (channels) or attention heads with the smallest norms, on a gradual schedule.

    Li et al. 2017, arXiv:1608.08710; Michel et al. 2019, arXiv:1905.10650. The weights of a group in ``param_groups``
    lose the same units, those with the smallest sum of norms. With ``head`` the query, key and value of an attention
    layer form a group by default. The bias of a pruned row is pruned too; otherwise its output would be a constant
    instead of zero. ``LayerThinningModifier`` can remove pruned units at the end of training, which makes the model
    smaller and faster in every engine. Only matrices are pruned: Linear layers and embeddings.
    """

    params: list[str] | str = ALL_PRUNABLE
    init_sparsity: float | str = 0.05
    final_sparsity: FinalSparsity = 0.8
    update_frequency: float = 0.01  # epochs between new masks
    inter_func: Literal["linear", "cubic", "inverse_cubic"] = "cubic"
    mask_type: Literal["filter", "channel", "head"] = "filter"  # rows, columns, or the rows of one head
    leave_enabled: bool = True
    param_groups: list[list[str]] | None = None  # names or "re:" patterns of weights that lose the same units

    masks_biases: ClassVar[bool] = True

    def _check_weight(self, name: str, weight: Tensor, final: float) -> None:
        dimension = masks.UNIT_DIMENSION[self.mask_type]
        if weight.dim() > 2:
            raise ValueError(f"structured pruning needs a matrix, got a weight of shape {tuple(weight.shape)}")
        if weight.dim() == 2 and weight.shape[dimension] % self._size:
            raise ValueError(f"heads of {self._size} do not tile {weight.shape[0]} rows")

    def initialize(self, targets: Targets) -> None:
        self._size = 1  # number of rows or columns in a unit
        if self.mask_type == "head":
            config = targets.pretrained().config
            self._size = config.hidden_size // config.num_attention_heads
        super().initialize(targets)
        matrices = [name for name, weight in self.masked.weights.items() if weight.dim() == 2]
        self._groups = self._grouped(matrices, targets)
        self._units_of = {name: name for name in matrices}  # the matrix of each weight or bias
        if masks.UNIT_DIMENSION[self.mask_type] == 0:
            for name in matrices:
                bias = name.removesuffix("weight") + "bias"
                self._units_of |= dict.fromkeys(targets.parameters(bias, strict=False), name)
        for name in self.masked.weights:
            if name not in self._units_of:
                raise ValueError(
                    f"structured pruning needs a matrix, got the vector {name}; biases are pruned with their rows"
                )
        self.masked = MaskedWeights({name: targets.parameters(name)[name] for name in self._units_of})
        self._final = {name: self._final[matrix] for name, matrix in self._units_of.items()}
        self._init = {name: self._init[matrix] for name, matrix in self._units_of.items()}

    def zero_units(self) -> list[str]:
        self.apply_one_shot()
        return list(self.masked.weights)

    def zero_counts_at(self, epoch: float, before: Mapping[str, int]) -> dict[str, int]:
        """Zeros of the matrices. The biases are not counted: they are few, and may be zero anyway."""
        return {
            name: count for name, count in super().zero_counts_at(epoch, before).items() if name == self._units_of[name]
        }

    def _grouped(self, matrices: list[str], targets: Targets) -> list[list[str]]:
        """Names of the weights that lose the same units, one list for each group."""
        groups = [list(targets.parameters(members)) for members in self.param_groups or ()]
        grouped = [name for group in groups for name in group]
        for name in grouped:
            if name not in matrices:
                raise ValueError(f"param_groups must name matrices of params, got {name}")
            if grouped.count(name) > 1:
                raise ValueError(f"param_groups must name a weight once, got {name} twice")
        attentions: dict[str, list[str]] = {}
        for name in matrices:
            if name not in grouped:
                attention = name.rsplit(".", 2)[0] if self.mask_type == "head" else name
                attentions.setdefault(attention, []).append(name)
        groups = [group for group in [*groups, *attentions.values()] if group]
        dimension = masks.UNIT_DIMENSION[self.mask_type]
        for first, *others in groups:
            for name in others:
                sizes = [self.masked.weights[member].shape[dimension] for member in (first, name)]
                if sizes[0] != sizes[1] or self._final[first] != self._final[name]:
                    raise ValueError(
                        "weights of a group must have as many units and the same final sparsity, got "
                        f"{first} ({sizes[0]} {self.mask_type}s, {self._final[first]:g}) and {name} ({sizes[1]}, "
                        f"{self._final[name]:g})"
                    )
        return groups

    def compute_masks(self, targets: Mapping[str, float], step: int, progress: float) -> dict[str, Tensor]:
        dimension = masks.UNIT_DIMENSION[self.mask_type]
        keeps: dict[str, Tensor] = {}
        for group in self._groups:
            norms = [unit_norms(self.masked.weights[name].detach(), dimension, self._size) for name in group]
            keeps |= dict.fromkeys(
                group, masks.unstructured_mask(functools.reduce(torch.add, norms), targets[group[0]])
            )
        return {
            name: spread(keeps[matrix], self.masked.weights[name].shape, dimension, self._size)
            for name, matrix in self._units_of.items()
        }
