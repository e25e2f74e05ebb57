"""RigL: sparse training that drops small weights and grows new ones by their gradients."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from sparsification.base import TrainingStep
from sparsification.pruning import masks
from sparsification.pruning.gradient_sampling import GradientSampling, from_first_process
from sparsification.pruning.masked_weights import first_moments
from sparsification.pruning.scheduled import FinalSparsity, sparsity_groups
from sparsification.samplers import SampledGradients
from sparsification.targets import Targets

Strategy = Literal["uniform", "erdos_renyi", "erdos_renyi_kernel"]


def allocate_sparsity(shapes: Mapping[str, torch.Size], sparsity: float, strategy: Strategy) -> dict[str, float]:
    """Distribute a global sparsity over weights.

    Mocanu et al. 2018, arXiv:1707.04780; Evci et al. 2020, arXiv:1911.11134, section 3. With Erdos-Renyi the density of
    a weight is proportional to (rows + columns) / (rows x columns), so that small weights are pruned less. A weight
    whose density would exceed 1 stays dense, and the others are pruned more.

    Args:
        shapes: of the weights, by name.
        sparsity: fraction to prune of all of them together, in [0, 1].
        strategy: ``uniform`` gives all weights the same; ``erdos_renyi_kernel`` also counts a convolution's kernel.

    Returns:
        Sparsity by name.

    Raises:
        ValueError: a vector has no rows and columns.
    """
    if strategy == "uniform":
        return dict.fromkeys(shapes, sparsity)
    density = {}
    for name, shape in shapes.items():
        if len(shape) < 2:
            raise ValueError(f"{name}: sparsity_strategy '{strategy}' needs a matrix, got a vector")
        sides = shape if strategy == "erdos_renyi_kernel" else shape[:2]
        density[name] = sum(sides) / math.prod(sides)
    budget = (1 - sparsity) * sum(map(math.prod, shapes.values()))
    result: dict[str, float] = {}
    while density:
        scale = budget / sum(density[name] * math.prod(shapes[name]) for name in density)
        full = [name for name in density if scale * density[name] > 1]
        if not full:
            return result | {name: 1 - scale * value for name, value in density.items()}
        for name in full:
            result[name] = 0.0
            budget -= math.prod(shapes[name])
            del density[name]
    return result


def regrowth_scores(weight: Tensor, gradient: Tensor, sparsity: float, fraction: float) -> Tensor:
    """Scores of RigL: infinity for the largest weights, the size of the gradient for all others.

    Args:
        weight: any shape, zero where pruned.
        gradient: of the loss, shaped like ``weight``.
        sparsity: fraction that will be pruned, in [0, 1].
        fraction: fraction of the kept weights that is chosen by gradient, in [0, 1].

    Returns:
        Scores shaped like ``weight``.
    """
    num_held = round((1 - (sparsity + (1 - sparsity) * fraction)) * weight.numel())  # rounded once, as in SparseML
    held = masks.unstructured_mask(weight.abs(), 1 - num_held / weight.numel())
    return gradient.abs().masked_fill(held, torch.inf)


@dataclass(kw_only=True)
class RigLPruningModifier(GradientSampling):
    """Train at a constant sparsity; each update drops small weights and grows those with large gradients (RigL).

    Evci et al. 2020, arXiv:1911.11134. At each update a fraction of the kept weights is replaced by those with the
    largest gradients among all others, which include the weights just dropped. The fraction is
    ``init_update_fraction`` at the start and falls to 0 at the end along half a cosine. New weights start at zero. The
    first mask is computed from the dense weights in the same way. A weight whose density would exceed 1 stays dense and
    the others are pruned more; in SparseML the total sparsity is higher in that case.
    """

    params: list[str] | str
    final_sparsity: FinalSparsity  # from start to end
    update_frequency: float = 1.0
    mask_type: Literal["unstructured"] = "unstructured"  # SparseML's key, unstructured only
    global_sparsity: bool = False  # SparseML's key, must be false: sparsity_strategy sets the sparsity of each weight
    leave_enabled: bool = True
    grad_sampler_kwargs: dict[str, object] | None = None
    num_grads: int = 1  # batches whose gradients are summed
    init_update_fraction: float = 0.3  # fraction of the kept weights that the first update replaces
    sparsity_strategy: Strategy = "erdos_renyi_kernel"  # how the sparsity is distributed over the weights
    momentum_buffer_reset: bool = True  # whether the optimizer's first moments of new weights are zeroed

    samples_data: ClassVar[bool] = False  # in one shot it needs no gradients

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.global_sparsity:
            raise ValueError("global_sparsity must be false: sparsity_strategy sets the sparsity of each weight")
        if self.num_grads < 1:
            raise ValueError(f"num_grads must be at least 1, got {self.num_grads}")
        if not 0 <= self.init_update_fraction <= 1:
            raise ValueError(f"init_update_fraction must be in [0, 1], got {self.init_update_fraction:g}")
        self._grown: dict[str, Tensor] = {}  # bool masks of the weights that the last update grew

    def groups(self) -> list[tuple[float, list[str]]]:
        return sparsity_groups(self.params, self.final_sparsity)

    def initialize(self, targets: Targets) -> None:
        super().initialize(targets)
        for final, patterns in self.groups():
            shapes = {name: weight.shape for name, weight in targets.parameters(patterns).items()}
            self._final |= allocate_sparsity(shapes, final, self.sparsity_strategy)

    def sampled_gradients(self) -> SampledGradients:
        num_weights = sum(weight.numel() for weight in self.masked.weights.values())
        return SampledGradients(self.num_grads, self._batch_size, "data", 4 * num_weights)

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        super().update(now, optimizer)
        for name, grown in self._grown.items():
            if self.momentum_buffer_reset:
                for moment in first_moments(optimizer, self.masked.weights[name]):
                    moment.masked_fill_(grown, 0.0)
        self._grown.clear()

    def compute_masks(self, targets: Mapping[str, float], step: int, progress: float) -> dict[str, Tensor]:
        fraction = self.init_update_fraction * (1 + math.cos(math.pi * progress)) / 2
        growth = self._sample(step) if fraction > 0 else {}  # the last masks need no gradients
        keeps = {}
        for name, sparsity in targets.items():
            weight = self.masked.weights[name].detach()
            scores = regrowth_scores(weight, growth[name], sparsity, fraction) if growth else weight.abs()
            keeps[name] = masks.unstructured_mask(scores, sparsity)
        self._grown = {name: keep & ~self.masked.mask(name) for name, keep in keeps.items()}
        return keeps

    def _sample(self, step: int) -> dict[str, Tensor]:
        """Sum the gradients of ``num_grads`` batches, by weight."""
        growth = {name: torch.zeros_like(weight) for name, weight in self.masked.weights.items()}
        for gradients in self._gradients(self.num_grads, (step, 1)):
            for name, gradient in gradients.items():
                growth[name] += gradient
        for name, total in growth.items():
            if not from_first_process(total).isfinite().all():
                raise ValueError(f"{name}: a gradient is not finite: is the loss nan?")
        return growth
