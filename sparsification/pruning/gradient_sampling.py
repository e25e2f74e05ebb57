"""Where do gradients come from that are not those of the training step?"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsification.base import GradientSampler
from sparsification.pruning.gradual import GradualPruning
from sparsification.pruning.scheduled import ScheduledPruning


class GradientSampling(ScheduledPruning):
    """Scheduled pruning with gradients of single batches, sampled before each new mask.

    Annotates keys as ``ScheduledPruning`` does.
    """

    update_frequency: float  # epochs between new masks
    grad_sampler_kwargs: dict[str, object] | None  # batch_size; without it the training batch's

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sampler: GradientSampler | None = None  # the manager's
        # SparseML passes them to its data loader; the last two change nothing.
        given = self.grad_sampler_kwargs or {}
        unknown = given.keys() - {"batch_size", "num_workers", "pin_memory"}
        if unknown:
            raise ValueError(f"grad_sampler_kwargs has no '{min(unknown)}', only batch_size")
        self._batch_size = given.get("batch_size")
        if self._batch_size is not None and (type(self._batch_size) is not int or self._batch_size < 1):
            raise ValueError(
                f"grad_sampler_kwargs: batch_size {self._batch_size!r} is no number of features, 1 or more"
            )

    def set_gradient_sampler(self, sampler: GradientSampler) -> None:
        self.sampler = sampler

    def _gradients(self, count: int, moment: tuple[int, int]) -> Iterator[dict[str, Tensor]]:
        """Gradients of ``count`` batches, by weight, those of pruned weights included; each is valid until the next."""
        if self.sampler is None:
            raise ValueError("gradients are needed: call ScheduledModifierManager.set_gradient_sampler")
        weights = self.masked.weights
        for gradients in self.sampler(list(weights.values()), count, self._batch_size, moment):
            yield dict(zip(weights, gradients, strict=True))


@dataclass(kw_only=True)
class GradientSampledPruning(GradientSampling, GradualPruning):
    """Gradual pruning by scores that are made from sampled gradients."""

    update_frequency: float = 1.0
    grad_sampler_kwargs: dict[str, object] | None = None


def from_first_process(tensor: Tensor) -> Tensor:
    """Give every process of the run the first one's numbers: its own may differ in the last bit, and masks with it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(tensor, src=0)
    return tensor
