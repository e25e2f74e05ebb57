"""What does the loss lose with each weight, to second order, and how do the others make up for it?

Optimal Brain Surgeon (Hassibi & Stork 1992) prunes the weights Q with the lowest saliency 1/2 w_Q' ([H^-1]_QQ)^-1 w_Q
and moves all others by -[H^-1]_:Q ([H^-1]_QQ)^-1 w_Q, where H is the Hessian of the loss. oBERT (Kurtic et al. 2022,
arXiv:2203.07259) puts the empirical Fisher matrix in place of H, damped and cut to blocks along the diagonal:
F = damp I + 1/m sum of g g' over m gradients. Its inverse is built directly, one gradient after the other.

Pure functions, but for ``add_gradient_``. The weights of a matrix are numbered row by row; block b of size B holds the
weights b B to (b + 1) B - 1, the last one is padded. An inverse is (blocks, B, B): n B numbers for n weights.
"""

import torch
from torch import Tensor


def damped_inverse(num_weights: int, block_size: int, damp: float, device: torch.device | str = "cpu") -> Tensor:
    """The inverse before any gradient: I / damp in each block.

    Args:
        num_weights: n.
        block_size: B.
        damp: added to the diagonal of the Fisher matrix, > 0.
        device: where to keep it; 4 n B bytes.

    Returns:
        (ceil(n / B), B, B), fp32.
    """
    num_blocks = -(-num_weights // block_size)
    inverse = torch.zeros(num_blocks, block_size, block_size, device=device)
    inverse.diagonal(dim1=1, dim2=2).fill_(1 / damp)
    return inverse


def add_gradient_(inverse: Tensor, gradient: Tensor, num_gradients: int) -> None:
    """Take one more of ``num_gradients`` gradients into the inverse, in place (Sherman & Morrison 1950).

    (F + g g' / m)^-1 = F^-1 - u u' with u = F^-1 g / sqrt(m + g' F^-1 g): one pass to read the inverse and one to write
    it, no copy. In fp32 an inverse that began with 1 / damp is good to 1e-7 / damp: gradients of a block whose squares
    sum to more than damp x m x 1e7 make nothing but noise of it, and in the end nan.

    Args:
        inverse: (blocks, B, B).
        gradient: of the n weights, any shape.
        num_gradients: m, over which the Fisher matrix is the mean.
    """
    gradient = _in_blocks(gradient, inverse)
    step = _times(inverse, gradient)
    step /= (num_gradients + (gradient * step).sum(dim=1, keepdim=True)).sqrt()
    inverse.addcmul_(step[:, :, None], step[:, None, :], value=-1)


def lagrange_multipliers(weight: Tensor, inverse: Tensor, group: int = 1) -> Tensor:
    """How hard the loss resists that each group of weights becomes zero: the Lagrange multipliers of that constraint.

    Args:
        weight: any shape, n weights.
        inverse: (blocks, B, B).
        group: weights that go together, consecutive ones; divides B and n.

    Returns:
        ([F^-1]_QQ)^-1 w_Q for each group Q by itself, shaped like ``weight``.
    """
    values = _in_blocks(weight, inverse)
    if group == 1:
        # Rounding can leave a steep direction with an inverse at or below zero: make it tiny, the weight important.
        solved = values / inverse.diagonal(dim1=1, dim2=2).clamp_min(torch.finfo(torch.float32).eps)
    else:
        blocks, size, _ = inverse.shape
        own = inverse.view(blocks, size // group, group, size // group, group).diagonal(dim1=1, dim2=3)
        own = own.permute(0, 3, 1, 2)  # (blocks, groups in a block, group, group)
        solved = torch.linalg.solve_ex(own, values.view(blocks, -1, group, 1)).result.view_as(values)
    return solved.flatten()[: weight.numel()].view_as(weight)


def saliency(weight: Tensor, inverse: Tensor, group: int = 1) -> Tensor:
    """Rise of the loss, to second order, where a group of weights is pruned and the others adapt.

    Args:
        weight: any shape, n weights.
        inverse: (blocks, B, B).
        group: weights that go together, consecutive ones; divides B and n.

    Returns:
        1/2 w_Q' ([F^-1]_QQ)^-1 w_Q, the same for all members of a group, shaped like ``weight``.
    """
    scores = 0.5 * weight * lagrange_multipliers(weight, inverse, group)
    if group > 1:
        scores = scores.view(-1, group).sum(dim=1, keepdim=True).expand(-1, group).reshape(weight.shape)
        scores = scores.masked_fill(~(scores >= 0), torch.inf)  # rounding, as above
    return scores


def obs_update(weight: Tensor, inverse: Tensor, keep: Tensor, group: int = 1) -> Tensor:
    """How the weights move when some of them are pruned, so that the loss rises least.

    As in oBERT the moves for all pruned groups of a block are added up, as if each were pruned alone.

    Args:
        weight: any shape, n weights.
        inverse: (blocks, B, B).
        keep: bool, shaped like ``weight``, False where pruned; whole groups.
        group: weights that go together, consecutive ones; divides B and n.

    Returns:
        What to add to ``weight``; the pruned ones have to be set to zero besides.
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
