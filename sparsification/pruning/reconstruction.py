"""Layer-wise reconstruction of a pruned linear layer: masks, and the least-squares weights for a mask.

The outputs of the pruned layer are fitted to those of the dense layer on calibration tokens. Let x be the inputs of the
layer in the model as pruned so far, t the outputs of the dense layer without the bias, W the present weights and d a
small damping. The sparse weights V minimize

    mean |V x - t|^2 + d |V - W|^2  =  tr(V A V') - 2 tr(V B') + const,    A = mean x x' + d I,    B = mean t x' + d W.

The methods that choose a mask are heuristics. For a given mask the solution is exact: each row of V solves its own
linear system (``refit``). The second term is zero for kept weights that are not changed, so the error of a refit on the
calibration tokens is never larger than that of the mask alone.

Pure functions on tensors. Without a mask the optimum is V* = B A^-1, and the loss of any V exceeds that of V* by
tr((V - V*) A (V - V*)').
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsification.pruning import masks
from sparsification.pruning.masks import MaskType


class Moments:
    """Sums over calibration tokens, for linear layers that share their inputs.

    Memory: 8 bytes x in_features x (in_features + the out_features of all layers).

    Args:
        in_features: width of the inputs.
        out_features: width of the outputs of each layer.
        device: where to keep the sums.
    """

    def __init__(self, in_features: int, out_features: Sequence[int], device: torch.device | str = "cpu"):
        self.tokens = 0
        self.lowest = self.highest = 0.0  # of the inputs and 0
        self._squares = torch.zeros(in_features, in_features, dtype=torch.float64, device=device)
        self._powers = [torch.zeros((), dtype=torch.float64, device=device) for _ in out_features]
        self._crosses = [torch.zeros(width, in_features, dtype=torch.float64, device=device) for width in out_features]

    def add(self, inputs: Tensor, outputs: Sequence[Tensor]) -> None:
        """Add tokens to the sums.

        Args:
            inputs: (tokens, in_features), of the pruned model.
            outputs: for each layer (tokens, out_features), of the dense layer for the same tokens, without the bias.
        """
        # The product of a batch is computed in fp32, which is several times faster; the sums are kept in fp64.
        inputs = inputs.float()
        self.tokens += len(inputs)
        low, high = inputs.aminmax() if len(inputs) else (0.0, 0.0)
        self.lowest, self.highest = min(self.lowest, float(low)), max(self.highest, float(high))
        self._squares += inputs.T @ inputs
        for index, output in enumerate(outputs):
            output = output.float()
            self._powers[index] += output.square().sum()
            self._crosses[index] += output.T @ inputs

    def input_norms(self) -> Tensor:
        """Root mean square of each input, (in_features,), fp32."""
        return (self._squares.diagonal() / self.tokens).sqrt().float()

    def problem(self, index: int, weight: Tensor, dampening: float) -> "Problem":
        """Build the least-squares problem of one layer.

        Args:
            index: index of the layer in ``out_features``.
            weight: its present weights, (out_features, in_features).
            dampening: d as a fraction of the mean square of an input, > 0.
        """
        hessian = self._squares / self.tokens
        damping = dampening * (float(hessian.diagonal().mean()) or 1.0)  # 1.0 if all inputs are 0
        hessian.diagonal().add_(damping)
        return Problem(
            weight=weight.float(),
            hessian=hessian,
            cross=self._crosses[index] / self.tokens + damping * weight.double(),
            input_norms=self.input_norms(),
            power=float(self._powers[index]) / self.tokens,
            damping=damping,
            input_range=self.highest - self.lowest,
        )


@dataclass(frozen=True)
class Problem:
    """Least-squares problem of one layer; A and B are those of the module's docstring, in fp64."""

    weight: Tensor  # W, (out_features, in_features), fp32
    hessian: Tensor  # A, (in_features, in_features)
    cross: Tensor  # B, (out_features, in_features)
    input_norms: Tensor  # root mean square of each input, (in_features,), fp32
    power: float  # mean |t|^2
    damping: float  # d
    input_range: float  # from the lowest to the highest input, with 0 in between

    def optimum(self) -> Tensor:
        """Compute V*, the optimal weights without a mask, (out_features, in_features)."""
        return torch.cholesky_solve(self.cross.T, torch.linalg.cholesky(self.hessian)).T

    def relative_error(self, weight: Tensor) -> float:
        """Compute mean |V x - t|^2 / mean |t|^2 for weights (out_features, in_features)."""
        weight = weight.double()
        squares = self.hessian - self.damping * torch.eye(len(self.hessian), dtype=torch.float64, device=weight.device)
        cross = self.cross - self.damping * self.weight.double()
        error = ((weight @ squares - 2 * cross) * weight).sum()
        return max(float(error) + self.power, 0.0) / max(self.power, torch.finfo(torch.float64).tiny)


def wanda_mask(problem: Problem, sparsity: float, mask_type: MaskType) -> Tensor:
    """Keep in each row the weights with the largest product of |w| and the norm of the input.

    Sun et al. 2023, arXiv:2306.11695. Every row, or row of blocks, has the same sparsity up to rounding; in total
    ``masks.num_pruned`` weights are pruned.

    Args:
        problem: the layer.
        sparsity: fraction to prune, in [0, 1].
        mask_type: see ``masks.parse_mask_type``.

    Returns:
        Bool mask (out_features, in_features), False where pruned.
    """
    scores = problem.weight.abs() * problem.input_norms
    pattern = masks.parse_mask_type(mask_type)
    height = pattern[0] if isinstance(pattern, tuple) else len(scores) if pattern == "channel" else 1
    bands, keeps, pruned = scores.split(height), [], 0
    for number, band in enumerate(bands, start=1):
        shape = torch.Size([number * height, scores.shape[1]])
        goal = masks.num_pruned(shape, sparsity, mask_type)
        keeps.append(masks.compute_mask(band, (goal - pruned) / band.numel(), mask_type))
        pruned = goal
    return torch.cat(keeps)


def sparsegpt(
    problem: Problem,
    sparsity: float,
    mask_type: MaskType,
    block_size: int = 128,
    target: Tensor | None = None,
    zeros: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Prune columns from left to right and update the columns to the right to compensate.

    Frantar & Alistarh 2023, arXiv:2301.00774. U is the upper Cholesky factor of A^-1. In each group of ``block_size``
    columns (of M columns for N:M) the weights with the smallest w^2 / U_jj^2 are pruned; each pruned weight w in column
    j adds -w / U_jj U_j: to the rest of its row.

    Args:
        problem: the layer.
        sparsity: fraction to prune, in [0, 1].
        mask_type: see ``masks.parse_mask_type``; its blocks must divide ``block_size``.
        block_size: number of columns for which the mask is chosen at once.
        target: weights to start from; None: the optimum without a mask.
        zeros: bool, True for weights that must be pruned. They count towards the sparsity; a group of columns that has
            more of them than its share ends with more zeros.

    Returns:
        New weights and their bool mask, (out_features, in_features), fp32.
    """
    weight = (problem.optimum() if target is None else target).float().clone()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(problem.hessian))
    upper = torch.linalg.cholesky(inverse, upper=True).float()
    rows, columns = weight.shape
    pattern = masks.parse_mask_type(mask_type)
    width = int(pattern.split(":")[1]) if isinstance(pattern, str) and ":" in pattern else block_size
    keep, pruned = torch.ones_like(weight, dtype=torch.bool), 0
    for start in range(0, columns, block_size):
        end = min(start + block_size, columns)
        part, factor = weight[:, start:end], upper[start:end, start:end]
        errors = torch.zeros_like(part)
        for column in range(end - start):
            if column % width == 0:
                chosen = slice(column, min(column + width, end - start))
                scores = part[:, chosen].square() / factor.diagonal()[chosen].square()
                if zeros is not None:
                    scores = scores.masked_fill(zeros[:, start:end][:, chosen], -1.0)
                # The total for all columns up to here, so that rounding errors do not accumulate.
                goal = masks.num_pruned(torch.Size([rows, start + chosen.stop]), sparsity, mask_type)
                kept = masks.compute_mask(scores, (goal - pruned) / scores.numel(), mask_type)
                keep[:, start:end][:, chosen] = kept if zeros is None else kept & ~zeros[:, start:end][:, chosen]
                pruned = goal
            error = part[:, column].masked_fill(keep[:, start + column], 0.0) / factor[column, column]
            part[:, column:] -= torch.outer(error, factor[column, column:])
            errors[:, column] = error
        weight[:, end:] -= errors @ upper[start:end, end:]
    return weight * keep, keep


def alps_mask(problem: Problem, sparsity: float, mask_type: MaskType, max_steps: int = 300) -> Tensor:
    """Choose a mask by ADMM, which alternates between dense weights that fit the outputs and their sparse projection.

    ALPS, Meng et al. 2024, arXiv:2406.07831. Weights are scaled such that A has a unit diagonal. Starting from D = W
    and V = 0, a step is X = (A + r I)^-1 (B - V + r D); D = X + V / r with all but the largest elements zeroed;
    V += r (X - D). After every third step r is multiplied by 1.3 if at least 10 % of the mask has changed since, by 1.2
    for 0.5 %, by 1.1 for less. It stops when the mask does not change.

    Args:
        problem: the layer.
        sparsity: fraction to prune, in [0, 1].
        mask_type: see ``masks.parse_mask_type``.
        max_steps: upper bound for the number of steps.

    Returns:
        Bool mask (out_features, in_features), False where pruned.
    """
    scale = problem.hessian.diagonal().rsqrt()
    values, vectors = torch.linalg.eigh(problem.hessian * scale[:, None] * scale)
    values, vectors = values.float(), vectors.float()
    cross = (problem.cross * scale).float()
    sparse = problem.weight / scale.float()
    dual, rate = torch.zeros_like(sparse), 0.1
    keep = former = torch.zeros_like(sparse, dtype=torch.bool)
    for step in range(1, max_steps + 1):
        dense = ((cross - dual + rate * sparse) @ vectors / (values + rate)) @ vectors.T
        drawn = dense + dual / rate
        keep = masks.compute_mask(drawn.square(), sparsity, mask_type)
        sparse = drawn * keep
        dual += rate * (dense - sparse)
        if step % 3 == 0:
            changed = int((keep != former).sum()) / max(int(keep.sum()), 1)
            if changed == 0:
                break
            rate *= 1.3 if changed >= 0.1 else 1.2 if changed >= 0.005 else 1.1
            former = keep
    return keep


def refit(problem: Problem, keep: Tensor) -> Tensor:
    """Compute the kept weights that fit the outputs of the dense layer best.

    Row r with kept columns S solves A_SS v_S = B_rS by a Cholesky factorization, which rows with equal masks share. The
    cost is about k^3 / 3 operations for each distinct mask with k kept weights.

    Args:
        problem: the layer.
        keep: bool mask (out_features, in_features).

    Returns:
        New weights (out_features, in_features), fp64, zero where ``keep`` is False.
    """
    weight = torch.zeros_like(problem.cross)
    different, which = keep.unique(dim=0, return_inverse=True)
    order = which.argsort(stable=True).split(which.bincount(minlength=len(different)).tolist())
    for mask, rows in zip(different, order, strict=True):
        columns = mask.nonzero().flatten()
        factor = torch.linalg.cholesky(problem.hessian[columns[:, None], columns])
        right = problem.cross[rows[:, None], columns]
        weight[rows[:, None], columns] = torch.cholesky_solve(right.T, factor).T
    return weight
