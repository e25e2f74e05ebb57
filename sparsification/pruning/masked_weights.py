"""Masks that keep pruned weights at exactly zero, and the base of all modifiers that have them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sparsification.base import Modifier
from sparsification.pruning.sparsity import count_zeros


class MaskedWeights:
    """Weights and the masks that keep some of their members at zero.

    A mask has the dtype of its weight, 1.0 where kept and 0.0 where pruned, because multiplication is several times
    faster than indexing with a bool tensor.

    Args:
        weights: parameters by name.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]):
        self.weights = dict(weights)
        self._masks: dict[str, Tensor] = {}
        self._empty: dict[str, bool] = {}  # weights that a mask prunes completely; True once reported
        self._changes: Tensor | int = 0  # mask members that have changed, see ``pop_change_ratio``

    def set_mask(self, name: str, keep: Tensor) -> None:
        """Prune a weight from now on.

        Args:
            name: of the weight.
            keep: bool mask shaped like the weight, False where pruned.
        """
        weight = self.weights[name]
        if not keep.any():
            self._empty.setdefault(name, False)
        self._changes = self._changes + (keep != self.mask(name)).count_nonzero()
        self._masks[name] = keep.to(weight.dtype)
        weight.detach().masked_fill_(~keep, 0.0)

    def pop_fully_pruned(self) -> list[str]:
        """Names of the weights that a mask prunes completely, each returned once."""
        new = [name for name, reported in self._empty.items() if not reported]
        self._empty |= dict.fromkeys(new, True)
        return new

    def apply(self, name: str, values: Tensor) -> Tensor:
        """Zero the members of ``values``, shaped like the weight, where the weight is pruned."""
        return values * self._masks[name] if name in self._masks else values

    def mask(self, name: str) -> Tensor:
        """Bool mask of a weight, shaped like it, False where pruned."""
        if name in self._masks:
            return self._masks[name].bool()
        return torch.ones_like(self.weights[name], dtype=torch.bool)

    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights, so that they count neither in clipping nor in momentum."""
        gradients, masks = [], []
        for name, mask in self._masks.items():
            gradient = self.weights[name].grad
            if gradient is not None:
                gradients.append(gradient)
                masks.append(mask)
        if gradients:
            torch._foreach_mul_(gradients, masks)

    def mask_weights(self) -> None:
        """Zero pruned weights, which momentum and weight decay move too."""
        if self._masks:
            weights = [self.weights[name].detach() for name in self._masks]
            torch._foreach_mul_(weights, list(self._masks.values()))

    def canonicalize_zeros(self) -> None:
        """Make every pruned weight +0.0: a negative weight times zero is -0.0, and mixed signs compress worse."""
        for name in self._masks:
            self.weights[name].detach().add_(0.0)

    def remove_masks(self) -> None:
        """Remove all masks, so that all weights are trained again."""
        self._changes = self._changes + sum(count_zeros(list(self._masks.values())))
        self._masks.clear()

    def sparsity(self) -> float:
        """Fraction of the weights that are zero, in [0, 1]; zeros outside of the masks count too."""
        return sum(count_zeros(list(self.weights.values()))) / max(self._size(), 1)

    def sparsities(self) -> dict[str, float]:
        """Fraction of zeros in each weight, by name."""
        zeros = count_zeros(list(self.weights.values()))
        return {name: count / weight.numel() for count, (name, weight) in zip(zeros, self.weights.items(), strict=True)}

    def pop_change_ratio(self) -> float:
        """Fraction of the weights whose mask has changed since the previous call."""
        changes, self._changes = float(self._changes), 0
        return changes / max(self._size(), 1)

    def _size(self) -> int:
        return sum(weight.numel() for weight in self.weights.values())

    def state_dict(self) -> dict[str, Tensor]:
        """The masks, packed to one bit per weight."""
        return {
            name: torch.from_numpy(np.packbits(mask.bool().cpu().numpy().reshape(-1)))
            for name, mask in self._masks.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the masks; the weights themselves are in the checkpoint."""
        self._masks.clear()
        for name, packed in state.items():
            weight = self.weights[name]
            bits = np.unpackbits(packed.numpy(), count=weight.numel())
            self._masks[name] = torch.from_numpy(bits).view(weight.shape).to(weight.device, weight.dtype)


def first_moments(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> list[Tensor]:
    """Running means of a weight's gradients in an optimizer: momentum of SGD, first moment of Adam; empty before the
    first step.
    """
    state = optimizer.state.get(weight, {})
    return [state[key] for key in ("momentum_buffer", "exp_avg") if state.get(key) is not None]


@dataclass(kw_only=True)
class PruningBase(Modifier):
    """Base of all modifiers that mask weights: applies the masks in ``masked``, which ``initialize`` sets."""

    masks_weights: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.masked = MaskedWeights({})

    def pruned_names(self) -> Iterable[str]:
        return self.masked.weights

    def pop_fully_pruned(self) -> list[str]:
        return self.masked.pop_fully_pruned()

    def after_backward(self) -> None:
        self.masked.mask_gradients()

    def after_optimizer_step(self) -> None:
        self.masked.mask_weights()

    def before_save(self) -> None:
        self.masked.canonicalize_zeros()
