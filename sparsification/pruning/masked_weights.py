"""How do pruned weights stay exactly zero while everything around them learns?"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sparsification.base import Modifier
from sparsification.pruning.sparsity import count_zeros


class MaskedWeights:
    """Weights and the masks that hold some of them at zero.

    A mask is kept in its weight's own type, 1.0 where kept and 0.0 where pruned: multiplying by it is several times
    faster than any indexing by bools.

    Args:
        weights: parameters by name.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter]):
        self.weights = dict(weights)
        self._masks: dict[str, Tensor] = {}
        self._empty: dict[str, bool] = {}  # weights of which a mask has left nothing, and whether that has been told
        self._changes: Tensor | int = 0  # members of masks that were set anew, see ``pop_change_ratio``

    def set_mask(self, name: str, keep: Tensor) -> None:
        """Zero what ``keep``, a bool tensor shaped like the weight, leaves out, and hold it there from now on."""
        weight = self.weights[name]
        if not keep.any():
            self._empty.setdefault(name, False)
        self._changes = self._changes + (keep != self.mask(name)).count_nonzero()
        self._masks[name] = keep.to(weight.dtype)
        weight.detach().masked_fill_(~keep, 0.0)

    def pop_fully_pruned(self) -> list[str]:
        """Weights of which a mask has left nothing, each told once."""
        new = [name for name, told in self._empty.items() if not told]
        self._empty |= dict.fromkeys(new, True)
        return new

    def apply(self, name: str, values: Tensor) -> Tensor:
        """``values``, shaped like a weight, with zeros where it is pruned."""
        return values * self._masks[name] if name in self._masks else values

    def mask(self, name: str) -> Tensor:
        """Bool mask of a weight, False where pruned."""
        if name in self._masks:
            return self._masks[name].bool()
        return torch.ones_like(self.weights[name], dtype=torch.bool)

    def mask_gradients(self) -> None:
        """Zero the gradients of pruned weights, so that they count neither in clipping nor in momentum."""
        masked = [name for name in self._masks if self.weights[name].grad is not None]
        if masked:
            torch._foreach_mul_([self.weights[name].grad for name in masked], [self._masks[name] for name in masked])

    def mask_weights(self) -> None:
        """Put pruned weights back to zero: momentum and weight decay move them too."""
        if self._masks:
            weights = [self.weights[name].detach() for name in self._masks]
            torch._foreach_mul_(weights, list(self._masks.values()))

    def canonicalize_zeros(self) -> None:
        """Make every pruned weight +0.0: a negative weight times zero is -0.0, and random signs do not compress."""
        for name in self._masks:
            self.weights[name].detach().add_(0.0)

    def remove_masks(self) -> None:
        """Let every weight learn again."""
        self._changes = self._changes + sum(count_zeros(list(self._masks.values())))
        self._masks.clear()

    def sparsity(self) -> float:
        """Fraction of the weights that are zero, in [0, 1], counted in the weights and not in the masks."""
        return sum(count_zeros(list(self.weights.values()))) / max(self._size(), 1)

    def sparsities(self) -> dict[str, float]:
        """Fraction of zeros in each weight, by name."""
        zeros = count_zeros(list(self.weights.values()))
        return {name: count / weight.numel() for count, (name, weight) in zip(zeros, self.weights.items(), strict=True)}

    def pop_change_ratio(self) -> float:
        """Share of the weights that masks have let go or taken back since the last call."""
        changes, self._changes = float(self._changes), 0
        return changes / max(self._size(), 1)

    def _size(self) -> int:
        return sum(weight.numel() for weight in self.weights.values())

    def state_dict(self) -> dict[str, Tensor]:
        """The masks, eight weights a byte."""
        return {
            name: torch.from_numpy(np.packbits(mask.bool().cpu().numpy().reshape(-1)))
            for name, mask in self._masks.items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` gave; the weights themselves come with the checkpoint."""
        self._masks.clear()
        for name, packed in state.items():
            weight = self.weights[name]
            bits = np.unpackbits(packed.numpy(), count=weight.numel())
            self._masks[name] = torch.from_numpy(bits).view(weight.shape).to(weight.device, weight.dtype)


def first_moments(optimizer: torch.optim.Optimizer, weight: nn.Parameter) -> list[Tensor]:
    """The optimizer's running means of a weight's gradients: SGD's momentum or Adam's, where it has any yet."""
    state = optimizer.state.get(weight, {})
    return [state[key] for key in ("momentum_buffer", "exp_avg") if state.get(key) is not None]


@dataclass(kw_only=True)
class PruningBase(Modifier):
    """What every technique that masks weights does around the optimizer's step; ``initialize`` sets ``masked``."""

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
