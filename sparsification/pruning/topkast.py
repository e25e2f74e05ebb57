"""Can weights that are zero in the network go on learning outside of it?"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsification.base import TrainingStep
from sparsification.pruning.masked_weights import MaskedWeights
from sparsification.pruning.ranked import RankedPruning
from sparsification.pruning.scheduled import sparsity_groups
from sparsification.targets import Targets


@dataclass(kw_only=True)
class TopKASTPruningModifier(RankedPruning):
    """Compute with the largest weights and let some more of them learn, from which those may come: Top-KAST.

    Jayakumar et al. 2021, arXiv:2106.03517. The network has the weights of ``forward_sparsity``; all others are zero
    in it, but not forgotten. Those of ``backward_sparsity``, a larger set, are moved by the gradients of their places,
    the rest stays as it is. Where one that is not in the network outgrows one that is, new masks change their places.
    At the end the network stays as it is, or has all weights again where ``leave_enabled`` is false. What the others
    are worth lies in the checkpoints beside the model.
    """

    params: list[str] | str
    update_frequency: float = -1.0  # epochs between new masks; -1: in every step
    mask_type: str | list[int] = "unstructured"
    global_sparsity: bool = True
    max_sparsity: float = 1.0
    leave_enabled: bool = True
    forward_sparsity: float  # of the network
    backward_sparsity: float  # of the weights that learn: at most forward_sparsity
    active_weight_decay: float = 1e-4  # x learning rate; 1 / (1 - forward_sparsity) as much outside the network

    def __post_init__(self) -> None:
        if not 0 <= self.backward_sparsity <= self.forward_sparsity < 1:
            raise ValueError(
                f"backward_sparsity {self.backward_sparsity:g} and forward_sparsity {self.forward_sparsity:g}: "
                "more weights learn than compute, and some compute (0 <= backward <= forward < 1)"
            )
        super().__post_init__()

    def groups(self) -> list[tuple[float, list[str]]]:
        return sparsity_groups(self.params, self.forward_sparsity)

    def initialize(self, targets: Targets) -> None:
        super().initialize(targets)
        self._learning = MaskedWeights(self.masked.weights)
        self._outside: dict[str, Tensor] = {}  # the weights that are not in the network, zero where they are

    def after_backward(self) -> None:
        (self._learning if self._outside else self.masked).mask_gradients()

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        super().update(now, optimizer)
        if now.step < now.step_at(self.active_range[1]):
            self._decay_and_join(optimizer)
            return
        for name, outside in self._outside.items():
            if not self.leave_enabled:
                self.masked.weights[name].detach().add_(outside)
        self._outside.clear()
        self._learning.remove_masks()

    def after_optimizer_step(self) -> None:
        for name, outside in self._outside.items():
            # Momentum and the optimizer's own weight decay have moved those that do not learn, too.
            moved = torch.where(self._learning.mask(name), self.masked.weights[name].detach(), outside)
            self._outside[name] = moved.masked_fill_(self.masked.mask(name), 0.0)
        super().after_optimizer_step()

    def _decay_and_join(self, optimizer: torch.optim.Optimizer) -> None:
        """Decay what learns, and put the weights together for the optimizer."""
        rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
        for name, outside in self._outside.items():
            weight = self.masked.weights[name]
            decay = self.active_weight_decay * rates.get(id(weight), 0.0)
            exploring = self._learning.apply(name, outside)
            weight.detach().mul_(1 - decay).add_(outside).sub_(exploring, alpha=decay / (1 - self.forward_sparsity))

    def _all_of(self, name: str) -> Tensor:
        """A weight with what the network has of it, and what it has not."""
        weight = self.masked.weights[name].detach()
        return weight + self._outside[name] if name in self._outside else weight.clone()

    def compute_masks(self, targets: Mapping[str, float], step: int, progress: float) -> dict[str, Tensor]:
        keeps = self.masks_by_score(lambda name: self._all_of(name).abs(), targets)
        learning = self.masks_by_score(
            lambda name: self._all_of(name).abs(), dict.fromkeys(targets, self.backward_sparsity)
        )
        for name, keep in keeps.items():
            whole = self._all_of(name)
            self._learning.set_mask(name, learning[name])
            self._outside[name] = whole.masked_fill(keep, 0.0)
            self.masked.weights[name].detach().copy_(whole)
        return keeps

    def state_dict(self) -> dict[str, Tensor]:
        return (
            super().state_dict()
            | {f"learning.{name}": mask for name, mask in self._learning.state_dict().items()}
            | {f"outside.{name}": outside for name, outside in self._outside.items()}
        )

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        parts: dict[str, dict[str, Tensor]] = {"learning.": {}, "outside.": {}}
        for prefix, part in parts.items():
            part |= {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
        self._learning.load_state_dict(parts["learning."])
        weights = self.masked.weights
        self._outside = {name: value.to(weights[name].device) for name, value in parts["outside."].items()}
