"""Second-order pruning with the inverse Fisher matrix as a product of gradients (M-FAC)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsification.pruning.gradient_sampling import GradientSampledPruning, from_first_process
from sparsification.samplers import SampledGradients

BLOCKS_AT_ONCE = 256  # on the device of the weights: 131 MB for 64 gradients and blocks of 2000


def whitened(gradients: Tensor, damp: float) -> Tensor:
    """Compute Z such that the inverse Fisher matrix of each block is (I - Z' Z) / damp.

    By the Woodbury identity (I damp + G' G / m)^-1 = (I - G' (I m damp + G G')^-1 G) / damp; with the Cholesky factor L
    of the m x m matrix in the middle, Z = L^-1 G. Frantar et al. 2021, arXiv:2107.03356, compute it one gradient at a
    time instead.

    Args:
        gradients: G, (blocks, m, B): m gradients of the B weights of each block.
        damp: added to the diagonal of the Fisher matrix, > 0.

    Returns:
        Z, (blocks, m, B), fp32.
    """
    count = gradients.shape[1]
    middle = (gradients @ gradients.mT).double()
    middle.diagonal(dim1=1, dim2=2).add_(count * damp)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(middle).float(), gradients, upper=False)


def inverse_diagonal(factor: Tensor, damp: float) -> Tensor:
    """Diagonal of the inverse Fisher matrix.

    Args:
        factor: ``whitened`` gradients, (blocks, m, B).
        damp: added to the diagonal of the Fisher matrix, > 0.

    Returns:
        (blocks, B).
    """
    return (1 - factor.square().sum(dim=1)).clamp_min(torch.finfo(torch.float32).eps) / damp


def inverse_times(factor: Tensor, values: Tensor, damp: float) -> Tensor:
    """Product of the inverse Fisher matrix with one vector for each block.

    Args:
        factor: ``whitened`` gradients, (blocks, m, B).
        values: (blocks, B).
        damp: added to the diagonal of the Fisher matrix, > 0.

    Returns:
        (blocks, B).
    """
    return (values - torch.einsum("bmi,bm->bi", factor, torch.einsum("bmi,bi->bm", factor, values))) / damp


@dataclass(kw_only=True)
class MFACPruningModifier(GradientSampledPruning):
    """Prune by second-order information as ``OBSPruningModifier`` does, with the Fisher matrix in wide blocks (M-FAC).

    Frantar et al. 2021, arXiv:2107.03356. The inverse Fisher matrix is stored as the ``num_grads`` gradients from which
    it is computed: 4 bytes x weights x gradients on ``grads_device`` for any block size, 22 GB for BERT-base's encoder
    and 64 gradients. Blocks consist of the weights that are not pruned yet; a block may span two matrices.
    ``fisher_labels`` is that of ``OBSPruningModifier``.
    """

    num_grads: int | dict[float, int] = 64  # batches; or {sparsity: batches}, from each sparsity on
    damp: float = 1e-5  # added to the diagonal of the Fisher matrix
    fisher_block_size: int = 2000
    num_pages: int = 1  # SparseML's key, no effect: a few blocks at a time are on the device of the weights
    grads_device: str | int = "cpu"  # device on which gradients are stored
    use_gradient_buffering: bool | None = None  # SparseML's key, no effect: gradients are always sampled
    available_devices: list[str] | None = None  # SparseML's key, no effect: computed on the device of the weights

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = self.num_grads if isinstance(self.num_grads, dict) else {0.0: self.num_grads}
        if not counts or min(counts.values()) < 1 or self.fisher_block_size < 1:
            raise ValueError("num_grads and fisher_block_size must be at least 1")
        if self.damp <= 0:
            raise ValueError(f"damp must be greater than 0 for the Fisher matrix to have an inverse, got {self.damp:g}")
        self._counts = dict(sorted(counts.items()))
        self._sampled = torch.empty(0, 0)  # (gradients, weights that are not pruned, padded to whole blocks)

    def sampled_gradients(self) -> SampledGradients:
        count = max(self._counts.values())
        num_bytes = 4 * count * sum(weight.numel() for weight in self.masked.weights.values())
        return SampledGradients(count, self._batch_size, self.fisher_labels, num_bytes)

    def compute_masks(self, targets: Mapping[str, float], step: int, progress: float) -> dict[str, Tensor]:
        self._sample(step)
        live = {name: self.masked.mask(name) for name in targets}
        diagonal = torch.cat([inverse_diagonal(factor, self.damp).flatten() for factor, _ in self._factors()])
        parts = diagonal.split(self._sizes(live.values(), len(diagonal)))
        diagonals = {  # of the inverse, 1.0 where pruned
            name: torch.ones(keep.shape, device=keep.device).masked_scatter_(keep, part)
            for (name, keep), part in zip(live.items(), parts, strict=False)  # the last part is padding
        }

        def score(name: str) -> Tensor:
            weight = self.masked.weights[name].detach().float()
            return from_first_process(weight.square() / (2 * diagonals[name]))

        keeps = self.masks_by_score(score, targets)
        self._move(keeps, live, diagonals)
        self._sampled = torch.empty(0, 0)
        return keeps

    def _sample(self, step: int) -> None:
        """Sample the gradients of the weights that are not pruned."""
        reached = self._mean(self._target_sparsity) if self._target_sparsity else 0.0
        first = next(iter(self._counts.values()))
        count = ([count for sparsity, count in self._counts.items() if sparsity <= reached] or [first])[-1]
        live = {name: self.masked.mask(name) for name in self.masked.weights}
        total = sum(int(keep.sum()) for keep in live.values())
        size = self.fisher_block_size
        self._sampled = torch.zeros(count, max(-(-total // size), 1) * size, device=self.grads_device)
        for row, gradients in zip(self._sampled, self._gradients(count, (step, 1), self.fisher_labels), strict=True):
            row[:total] = torch.cat([gradient[live[name]] for name, gradient in gradients.items()])
        if not self._sampled.isfinite().all():
            raise ValueError("a gradient is not finite: is the loss nan?")

    def _factors(self) -> Iterator[tuple[Tensor, slice]]:
        """The inverse Fisher matrix, some blocks at a time, each with its slice of the vector of unpruned weights."""
        device = next(iter(self.masked.weights.values())).device
        width = BLOCKS_AT_ONCE * self.fisher_block_size
        for first in range(0, self._sampled.shape[1], width):
            part = self._sampled[:, first : first + width].to(device)
            blocks = part.unflatten(1, (-1, self.fisher_block_size)).transpose(0, 1)
            yield whitened(blocks, self.damp), slice(first, first + part.shape[1])

    @staticmethod
    def _sizes(live: Iterable[Tensor], total: int) -> list[int]:
        """Lengths of the weights' slices of the vector, and of its padding."""
        sizes = [int(keep.sum()) for keep in live]
        return [*sizes, total - sum(sizes)]

    def _move(self, keeps: dict[str, Tensor], live: dict[str, Tensor], diagonals: dict[str, Tensor]) -> None:
        """Update the remaining weights so that pruning the others increases the loss least."""
        pulls = [
            (self.masked.weights[name].detach().float() / diagonals[name]).masked_fill(keep, 0.0)[live[name]]
            for name, keep in keeps.items()
        ]
        pull = torch.nn.functional.pad(torch.cat(pulls), (0, self._sampled.shape[1] - sum(map(len, pulls))))
        for factor, place in self._factors():
            blocks = pull[place].view(-1, self.fisher_block_size)
            pull[place] = inverse_times(factor, blocks, self.damp).flatten()
        moves = pull.split(self._sizes(live.values(), len(pull)))
        for (name, alive), move in zip(live.items(), moves, strict=False):
            weight = self.masked.weights[name].detach()
            weight[alive] -= move.to(weight.dtype)
            from_first_process(weight)
