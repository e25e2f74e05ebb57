"""Saliencies and weight updates of second-order pruning, from a block-diagonal inverse Fisher matrix.

Optimal Brain Surgeon (Hassibi & Stork 1992) prunes the weights Q with the lowest saliency 1/2 w_Q' ([H^-1]_QQ)^-1 w_Q
and adds -[H^-1]_:Q ([H^-1]_QQ)^-1 w_Q to all others, where H is the Hessian of the loss. oBERT (Kurtic et al. 2022,
arXiv:2203.07259) replaces H by the empirical Fisher matrix, damped and restricted to blocks along the diagonal:
F = damp I + 1/m sum of g g' over m gradients. Its inverse is computed directly, one gradient after the other; to
compare several values of damp, the sum is computed first and inverted for each.

Pure functions, except ``add_gradient_`` and ``add_outer_product_``. The weights of a matrix are numbered row by row;
block b of size B has the weights b B to (b + 1) B - 1, and the last block is padded. A Fisher matrix or its inverse is
(blocks, B, B): n B numbers for n weights.
"""

import torch
from torch import Tensor

_BLOCKS_AT_ONCE = 10_000  # of which copies in double precision are made


def damped_inverse(num_weights: int, block_size: int, damp: float, device: torch.device | str = "cpu") -> Tensor:
    """Initial inverse of each block, without gradients: I / damp.

    Args:
        num_weights: n.
        block_size: B.
        damp: added to the diagonal of the Fisher matrix, > 0.
        device: of the result, 4 n B bytes.

    Returns:
        (ceil(n / B), B, B), fp32.
    """
    num_blocks = -(-num_weights // block_size)
    inverse = torch.zeros(num_blocks, block_size, block_size, device=device)
    inverse.diagonal(dim1=1, dim2=2).fill_(1 / damp)
    return inverse


def add_gradient_(inverse: Tensor, gradient: Tensor, num_gradients: int) -> None:
    """Add one of ``num_gradients`` gradients to the inverse, in place (Sherman & Morrison 1950).

    (F + g g' / m)^-1 = F^-1 - u u' with u = F^-1 g / sqrt(m + g' F^-1 g). The inverse is read once and written once,
    without a copy. In fp32 an inverse that starts at 1 / damp has an error of about 1e-7 / damp: if the squares of a
    block's gradients sum to more than damp x m x 1e7, rounding errors dominate and the inverse finally becomes nan.

    Args:
        inverse: (blocks, B, B).
        gradient: of the n weights, any shape.
        num_gradients: m, over which the Fisher matrix is the mean.
    """
    gradient = _in_blocks(gradient, inverse)
    step = _times(inverse, gradient)
    step /= (num_gradients + (gradient * step).sum(dim=1, keepdim=True)).sqrt()
    inverse.addcmul_(step[:, :, None], step[:, None, :], value=-1)


def add_outer_product_(matrix: Tensor, gradient: Tensor, num_gradients: int) -> None:
    """Add one of ``num_gradients`` gradients to the Fisher matrix without damp, in place.

    Args:
        matrix: (blocks, B, B).
        gradient: of the n weights, any shape.
        num_gradients: m, over which the Fisher matrix is the mean.
    """
    gradient = _in_blocks(gradient, matrix)
    matrix.addcmul_(gradient[:, :, None], gradient[:, None, :], value=1 / num_gradients)


def inverse_with_damp(matrix: Tensor, damp: float) -> Tensor:
    """Inverse of each block, computed in double precision.

    Args:
        matrix: the Fisher matrix without damp, (blocks, B, B).
        damp: added to the diagonal, > 0.

    Returns:
        (blocks, B, B), fp32; nan where a block is not finite, or not positive definite because of rounding.
    """
    inverse = torch.empty_like(matrix)
    for part, result in zip(matrix.split(_BLOCKS_AT_ONCE), inverse.split(_BLOCKS_AT_ONCE), strict=True):
        damped = part.double()
        damped.diagonal(dim1=1, dim2=2).add_(damp)
        factor, failed = torch.linalg.cholesky_ex(damped)
        result.copy_(torch.cholesky_inverse(factor).masked_fill((failed != 0)[:, None, None], torch.nan))
    return inverse


def lagrange_multipliers(weight: Tensor, inverse: Tensor, group: int = 1) -> Tensor:
    """Lagrange multipliers of the constraint that a group of weights is zero, for each group by itself.

    Args:
        weight: any shape, n weights.
        inverse: (blocks, B, B).
        group: number of consecutive weights that are pruned together; divides B and n.

    Returns:
        ([F^-1]_QQ)^-1 w_Q for each group Q by itself, shaped like ``weight``.
    """
    values = _in_blocks(weight, inverse)
    if group == 1:
        # Rounding can make the inverse of a steep direction zero or negative. A tiny one makes its weight important.
        solved = values / inverse.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(torch.float32).eps)
    else:
        blocks, size, _ = inverse.shape
        own = inverse.view(blocks, size // group, group, size // group, group).diagonal(dim1=1, dim2=3)
        own = own.permute(0, 3, 1, 2)  # (blocks, groups in a block, group, group)
        solved = torch.linalg.solve_ex(own, values.view(blocks, -1, group, 1)).result.view_as(values)
    return solved.flatten()[: weight.numel()].view_as(weight)


def saliency(weight: Tensor, inverse: Tensor, group: int = 1) -> Tensor:
    """Second-order increase of the loss when a group of weights is pruned and the others are updated.

    Args:
        weight: any shape, n weights.
        inverse: (blocks, B, B).
        group: number of consecutive weights that are pruned together; divides B and n.

    Returns:
        1/2 w_Q' ([F^-1]_QQ)^-1 w_Q, the same for all members of a group, shaped like ``weight``.
    """
    scores = 0.5 * weight * lagrange_multipliers(weight, inverse, group)
    if group > 1:
        scores = scores.view(-1, group).sum(dim=1, keepdim=True).expand(-1, group).reshape(weight.shape)
        scores = scores.masked_fill(~(scores >= 0), torch.inf)  # rounding, as above
    return scores


def obs_update(weight: Tensor, inverse: Tensor, keep: Tensor, group: int = 1) -> Tensor:
    """Update of the weights that minimizes the increase of the loss when some of them are pruned.

    As in oBERT, the updates for the pruned groups of a block are summed, each computed as if it were pruned alone.

    Args:
        weight: any shape, n weights.
        inverse: (blocks, B, B).
        keep: bool, shaped like ``weight``, False where pruned; whole groups.
        group: number of consecutive weights that are pruned together; divides B and n.

    Returns:
        What to add to ``weight``, shaped like it. Pruned weights have to be set to zero separately.
    """
    pull = lagrange_multipliers(weight, inverse, group).masked_fill(keep, 0.0)
    return -_times(inverse, _in_blocks(pull, inverse)).flatten()[: weight.numel()].view_as(weight)


def _in_blocks(values: Tensor, inverse: Tensor) -> Tensor:
    """(blocks, B) of ``values``, padded with zeros."""
    blocks, size, _ = inverse.shape
    flat = values.detach().to(inverse.dtype).flatten()
    return torch.nn.functional.pad(flat, (0, blocks * size - flat.numel())).view(blocks, size)


def _times(inverse: Tensor, values: Tensor) -> Tensor:
    """The product with each block, (blocks, B)."""
    if inverse.shape[1] == 1:  # a product of matrices of one number takes many times as long
        return inverse[:, 0] * values
    return torch.bmm(inverse, values[:, :, None]).squeeze(2)
