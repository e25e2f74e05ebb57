"""Top-KAST: sparse training in which some of the pruned weights are trained too."""

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
    """Compute with the largest weights, and train a larger set of them (Top-KAST).

    Jayakumar et al. 2021, arXiv:2106.03517. Forward and backward pass use the largest weights, as many as
    ``forward_sparsity`` leaves; all others are zero in the model, and their values are stored outside of it. The
    weights that ``backward_sparsity`` leaves, a larger set, are updated by their gradients; the rest does not change. A
    weight outside of the model that becomes larger than one inside replaces it at the next mask. At the end the model
    stays sparse, or gets all weights back if ``leave_enabled`` is false. Checkpoints contain the stored values.
    """

    params: list[str] | str
    update_frequency: float = -1.0  # epochs between new masks; -1: in every step
    mask_type: str | list[int] = "unstructured"
    global_sparsity: bool = True
    max_sparsity: float = 1.0
    leave_enabled: bool = True
    forward_sparsity: float  # sparsity of the model
    backward_sparsity: float  # sparsity of the set of weights that are trained, at most forward_sparsity
    active_weight_decay: float = 1e-4  # per step, x learning rate; outside of the model x 1 / (1 - forward_sparsity)

    def __post_init__(self) -> None:
        if not 0 <= self.backward_sparsity <= self.forward_sparsity < 1:
            raise ValueError(
                "sparsities must satisfy 0 <= backward_sparsity <= forward_sparsity < 1, got "
                f"{self.backward_sparsity:g} and {self.forward_sparsity:g}"
            )
        super().__post_init__()

    def groups(self) -> list[tuple[float, list[str]]]:
        return sparsity_groups(self.params, self.forward_sparsity)

    def initialize(self, targets: Targets) -> None:
        super().initialize(targets)
        self._learning = MaskedWeights(self.masked.weights)
        self._outside: dict[str, Tensor] = {}  # the weights outside of the model, zero inside

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
            # Momentum and the optimizer's own weight decay also move the weights that are not trained.
            moved = torch.where(self._learning.mask(name), self.masked.weights[name].detach(), outside)
            self._outside[name] = moved.masked_fill_(self.masked.mask(name), 0.0)
        super().after_optimizer_step()

    def _decay_and_join(self, optimizer: torch.optim.Optimizer) -> None:
        """Decay the weights that are trained, and add those outside of the model for the optimizer step."""
        rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
        for name, outside in self._outside.items():
            weight = self.masked.weights[name]
            decay = self.active_weight_decay * rates.get(id(weight), 0.0)
            exploring = self._learning.apply(name, outside)
            weight.detach().mul_(1 - decay).add_(outside).sub_(exploring, alpha=decay / (1 - self.forward_sparsity))

    def _all_of(self, name: str) -> Tensor:
        """A weight with its values inside and outside of the model."""
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
