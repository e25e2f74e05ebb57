"""Which whole rows, columns or attention heads go?"""

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
    """Euclidean norm of each unit.

    Args:
        weight: 2-d, (out_features, in_features).
        dimension: 0 where a unit is made of rows, 1 of columns.
        size: rows or columns of one unit.

    Returns:
        One score for each unit.
    """
    return weight.transpose(0, dimension).reshape(weight.shape[dimension] // size, -1).norm(dim=1)


def spread(keep: Tensor, shape: torch.Size, dimension: int, size: int = 1) -> Tensor:
    """Mask of a weight, or of a bias, of ``shape`` from the bool mask of its units."""
    lines = keep.repeat_interleave(size)
    return (lines[:, None] if len(shape) == 2 and dimension == 0 else lines).expand(shape)


@dataclass(kw_only=True)
class StructuredPruningModifier(GradualSchedule):
    """Zero whole rows (filters), columns (channels) or attention heads: those with the smallest norms, more and more.

    Li et al. 2017, arXiv:1608.08710; Michel et al. 2019, arXiv:1905.10650. Units of equal numbers in several weights
    can go together, the sum of their norms decides: ``param_groups``. With ``head`` the query, key and value of an
    attention are such a group without being named. A row takes its bias with it, since a row of zeros with a bias is a
    constant and not nothing. What ``LayerThinningModifier`` can take out afterwards makes the model smaller and faster
    in every engine. Matrices alone are pruned: Linear layers and embeddings.
    """

    params: list[str] | str = ALL_PRUNABLE
    init_sparsity: float | str = 0.05
    final_sparsity: FinalSparsity = 0.8
    update_frequency: float = 0.01  # epochs between new masks
    inter_func: Literal["linear", "cubic", "inverse_cubic"] = "cubic"
    mask_type: Literal["filter", "channel", "head"] = "filter"  # rows, columns, or the rows of one head
    leave_enabled: bool = True
    param_groups: list[list[str]] | None = None  # each with names or "re:" patterns of weights that lose the same units

    masks_units: ClassVar[bool] = True

    def _check_weight(self, weight: Tensor, final: float) -> None:
        dimension = masks.UNIT_DIMENSION[self.mask_type]
        if weight.dim() > 2:
            raise ValueError(
                f"a weight of shape {tuple(weight.shape)} is a convolution's, and only matrices are pruned"
            )
        if weight.dim() == 2 and weight.shape[dimension] % self._size:
            raise ValueError(f"{weight.shape[0]} rows are not made of heads of {self._size}")

    def initialize(self, targets: Targets) -> None:
        self._size = 1  # rows or columns of a unit
        if self.mask_type == "head":
            config = targets.model.config
            self._size = config.hidden_size // config.num_attention_heads
        super().initialize(targets)
        matrices = [name for name, weight in self.masked.weights.items() if weight.dim() == 2]
        self._groups = self._grouped(matrices, targets)
        self._units_of = {name: name for name in matrices}  # by weight or bias: the weight whose units it has
        if masks.UNIT_DIMENSION[self.mask_type] == 0:
            for name in matrices:
                bias = name.removesuffix("weight") + "bias"
                self._units_of |= dict.fromkeys(targets.parameters(bias, strict=False), name)
        for name in self.masked.weights:
            if name not in self._units_of:
                raise ValueError(f"{name} is a vector: only matrices are pruned, and biases with the rows of theirs")
        self.masked = MaskedWeights({name: targets.parameters(name)[name] for name in self._units_of})
        self._final = {name: self._final[matrix] for name, matrix in self._units_of.items()}
        self._init = {name: self._init[matrix] for name, matrix in self._units_of.items()}

    def zero_counts_at(self, epoch: float, before: Mapping[str, int]) -> dict[str, int]:
        """Those of the matrices; the biases are few, and may be zero anyway."""
        return {
            name: count for name, count in super().zero_counts_at(epoch, before).items() if name == self._units_of[name]
        }

    def _grouped(self, matrices: list[str], targets: Targets) -> list[list[str]]:
        """The weights that lose the same units."""
        groups = [list(targets.parameters(members)) for members in self.param_groups or ()]
        grouped = [name for group in groups for name in group]
        for name in grouped:
            if name not in matrices:
                raise ValueError(f"param_groups names {name}, which is not among the matrices of params")
            if grouped.count(name) > 1:
                raise ValueError(f"param_groups names {name} twice")
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
                        f"{first} ({sizes[0]} {self.mask_type}s, {self._final[first]:g}) and {name} ({sizes[1]}, "
                        f"{self._final[name]:g}) cannot lose the same ones"
                    )
        return groups

    def compute_masks(self, targets: Mapping[str, float], step: int, progress: float) -> dict[str, Tensor]:
        dimension = masks.UNIT_DIMENSION[self.mask_type]
        keeps = {}
        for group in self._groups:
            norms = sum(unit_norms(self.masked.weights[name].detach(), dimension, self._size) for name in group)
            keeps |= dict.fromkeys(group, masks.unstructured_mask(norms, targets[group[0]]))
        return {
            name: spread(keeps[matrix], self.masked.weights[name].shape, dimension, self._size)
            for name, matrix in self._units_of.items()
        }
