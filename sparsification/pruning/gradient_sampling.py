"""Base of the techniques that prune by gradients of single batches, sampled apart from the training step."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sparsification.pruning.gradual import GradualPruning
from sparsification.pruning.scheduled import ScheduledPruning
from sparsification.samplers import GradientSampler, Labels


class GradientSampling(ScheduledPruning):
    """Scheduled pruning with gradients of single batches, sampled before each new mask.

    Annotates keys as ``ScheduledPruning`` does.
    """

    update_frequency: float  # epochs between new masks
    grad_sampler_kwargs: dict[str, object] | None  # batch_size; default: that of training

    samples_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.sampler: GradientSampler | None = None  # the manager's
        # SparseML passes these keys to its data loader; num_workers and pin_memory have no effect here.
        given = self.grad_sampler_kwargs or {}
        unknown = given.keys() - {"batch_size", "num_workers", "pin_memory"}
        if unknown:
            raise ValueError(f"grad_sampler_kwargs must have no key but batch_size, got '{min(unknown)}'")
        size = given.get("batch_size")
        self._batch_size: int | None = None  # that of training
        if type(size) is int and size >= 1:
            self._batch_size = size
        elif size is not None:
            raise ValueError(f"grad_sampler_kwargs: batch_size must be a whole number of at least 1, got {size!r}")

    def set_gradient_sampler(self, sampler: GradientSampler) -> None:
        self.sampler = sampler

    def _gradients(self, count: int, moment: tuple[int, int], labels: Labels = "data") -> Iterator[dict[str, Tensor]]:
        """Sample gradients of ``count`` batches, by weight, those of pruned weights included.

        A batch's gradients are valid until those of the next one are sampled.
        """
        if self.sampler is None:
            raise ValueError("it prunes by sampled gradients: call ScheduledModifierManager.set_gradient_sampler first")
        weights = self.masked.weights
        for gradients in self.sampler(list(weights.values()), count, self._batch_size, moment, labels):
            yield dict(zip(weights, gradients, strict=True))


@dataclass(kw_only=True)
class GradientSampledPruning(GradientSampling, GradualPruning):
    """Gradual pruning by second-order scores that are made from sampled gradients."""

    update_frequency: float = 1.0
    grad_sampler_kwargs: dict[str, object] | None = None
    fisher_labels: Labels = "data"  # labels of the sampled loss: of the data, drawn from the model, or the teacher's

    @property
    def needs_reference(self) -> bool:
        return self.fisher_labels == "teacher"


def from_first_process(tensor: Tensor) -> Tensor:
    """Broadcast a tensor from rank 0, in place: processes may differ in the last bit, and then in their masks."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.broadcast(tensor, src=0)
    return tensor
