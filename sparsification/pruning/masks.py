"""Pruning masks of one weight from its scores: unstructured, in blocks, N:M, whole columns.

Pure functions that take scores and a sparsity and return bool masks, False where pruned. Rounding, block scores and
ties are those of SparseML 1.8.0, so that the same weights have the same masks there and here; `tests/golden/masks`
has the masks of SparseML.
"""

import math
import random
import re

import torch
from torch import Tensor

UNIT_DIMENSION = {"filter": 0, "channel": 1, "head": 0}  # of a weight (out_features, in_features)

MaskType = str | list[int]


def unstructured_mask(scores: Tensor, sparsity: float) -> Tensor:
    """Keep the highest scores of a tensor.

    Of equal scores at the threshold the first in row-major order are kept. If the threshold is the lowest score of
    all, as in a tensor with many zeros, a fixed shuffle chooses among them instead, so that pruning is not
    concentrated in the last rows.

    Args:
        scores: importance of each weight, any shape, e.g. ``weight.abs()``.
        sparsity: fraction to prune, in [0, 1]; ``round(n * sparsity)`` weights are pruned.

    Returns:
        Bool mask shaped like ``scores``, False where pruned.
    """
    return keep_highest(scores.flatten(), round(scores.numel() * sparsity)).view_as(scores)


def keep_highest(flat: Tensor, num_pruned: int) -> Tensor:
    """Mask a given number of the lowest scores; for ties see ``unstructured_mask``.

    Args:
        flat: scores, 1-d.
        num_pruned: how many are pruned; none below 0, all above the number of scores.

    Returns:
        Bool mask, 1-d, False where pruned.
    """
    if num_pruned <= 0:
        return torch.ones_like(flat, dtype=torch.bool)
    if num_pruned >= flat.numel():
        return torch.zeros_like(flat, dtype=torch.bool)
    threshold = torch.kthvalue(flat, num_pruned).values
    keep = flat > threshold
    num_ties_kept = flat.numel() - num_pruned - int(keep.sum())
    if num_ties_kept:
        ties = (flat == threshold).nonzero().flatten()
        if threshold == flat.min():
            order = list(range(ties.numel()))
            random.Random(42).shuffle(order)
            ties = ties[torch.tensor(order[num_pruned:], device=ties.device)]
        else:
            ties = ties[:num_ties_kept]
        keep[ties] = True
    return keep


def block_mask(scores: Tensor, sparsity: float, block: tuple[int, int]) -> Tensor:
    """Keep the blocks with the highest mean score; all weights of a block are kept or pruned together.

    Args:
        scores: (out_features, in_features) of a Linear weight, or (out, in, ...) of a convolution's, which has blocks
            of channels at each position of the kernel.
        sparsity: fraction of the blocks to prune, in [0, 1].
        block: (rows, columns); ``(1, 4)`` is four consecutive input features, which int8 kernels multiply at once.

    Returns:
        Bool mask shaped like ``scores``.

    Raises:
        ValueError: the blocks do not tile the tensor.
    """
    return expand_block_mask(unstructured_mask(block_means(scores, block), sparsity), scores.shape, block)


def block4_mask(scores: Tensor, sparsity: float) -> Tensor:
    """Keep the groups of four consecutive weights of a row with the highest mean score.

    The same as ``block_mask(scores, sparsity, (1, 4))``, but for any row length: the last group of a row may have fewer
    than four members.

    Args:
        scores: (out_features, in_features), or (out, in, ...) of a convolution.
        sparsity: fraction of the groups to prune, in [0, 1].

    Returns:
        Bool mask shaped like ``scores``.
    """
    return expand_block_mask(unstructured_mask(block_means(scores, "block4"), sparsity), scores.shape, "block4")


def block_means(scores: Tensor, pattern: str | tuple[int, int]) -> Tensor:
    """Mean score of each block.

    Args:
        scores: (out, in, ...).
        pattern: ``block4``, ``channel`` or (rows, columns).

    Returns:
        (rows of blocks, columns of blocks). For a convolution the kernel's dimensions follow; with ``block4`` its
        positions are further rows.

    Raises:
        ValueError: the blocks do not tile the tensor.
    """
    if pattern == "block4":
        columns = scores.shape[1]
        scores = scores.movedim(1, -1).reshape(-1, columns)
        groups = torch.nn.functional.pad(scores, (0, -columns % 4)).unflatten(1, (-1, 4))
        sizes = (columns - 4 * torch.arange(groups.shape[1], device=scores.device)).clamp(max=4)
        return groups.sum(dim=2) / sizes
    rows, columns = _block(pattern, scores.shape)
    if scores.dim() < 2 or scores.shape[0] % rows or scores.shape[1] % columns:
        raise ValueError(f"blocks of {rows}x{columns} do not tile a weight of shape {tuple(scores.shape)}")
    return scores.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).mean(dim=(1, 3))


def expand_block_mask(keep: Tensor, shape: torch.Size, pattern: str | tuple[int, int]) -> Tensor:
    """Expand the mask of blocks to the mask of their weights.

    Args:
        keep: bool, shaped as ``block_means`` returns it.
        shape: (out, in, ...) of the weight.
        pattern: ``block4``, ``channel`` or (rows, columns).

    Returns:
        Bool mask of ``shape``.
    """
    if pattern == "block4":
        mask = keep.repeat_interleave(4, dim=1)[:, : shape[1]]
        return mask.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    rows, columns = _block(pattern, shape)
    return keep.repeat_interleave(rows, dim=0).repeat_interleave(columns, dim=1)


def _block(pattern: str | tuple[int, int], shape: torch.Size) -> tuple[int, int]:
    """Rows and columns of a block; those of ``channel`` are whole columns of a weight of this shape."""
    return (shape[0], 1) if isinstance(pattern, str) else pattern


def n_of_m_mask(scores: Tensor, sparsity: float, n: int, m: int) -> Tensor:
    """Keep at least the ``n`` highest of every ``m`` consecutive scores of a row.

    Mishra et al. 2021, arXiv:2104.08378. At the full sparsity of 1 - n/m exactly n of m are kept. At a lower sparsity
    the lowest scores outside of the n highest of their groups are pruned, so that a schedule can approach the pattern.

    Args:
        scores: 2-d, (out_features, in_features), in_features a multiple of ``m``.
        sparsity: fraction to prune, in [0, 1 - n/m]; see ``n_of_m_sparsity``.
        n: weights to keep in each group.
        m: weights in a group.

    Returns:
        Bool mask shaped like ``scores``.

    Raises:
        ValueError: the sparsity is above that of the pattern, or the groups do not tile the tensor.
    """
    if scores.shape[-1] % m:
        raise ValueError(f"groups of {m} do not tile a weight of shape {tuple(scores.shape)}")
    sparsity = n_of_m_sparsity(sparsity, n, m)
    groups = scores.reshape(-1, m)
    rank = groups.argsort(dim=1, stable=True).argsort(dim=1)
    prunable = groups.masked_fill(rank >= m - n, torch.inf)
    return unstructured_mask(prunable, sparsity).view_as(scores)


def n_of_m_sparsity(sparsity: float, n: int, m: int) -> float:
    """Round a sparsity to that of an N:M pattern if they differ by at most 0.01, as SparseML does: 0.67 completes 1:3.

    Args:
        sparsity: fraction to prune, in [0, 1 - n/m + 0.01].
        n: weights to keep in each group.
        m: weights in a group.

    Returns:
        The sparsity of the mask, in [0, 1 - n/m].

    Raises:
        ValueError: the sparsity is above that of the pattern.
    """
    full = 1 - n / m
    if sparsity > full + 0.01 + 1e-9:
        raise ValueError(f"sparsity must be in [0, {full:g}] with mask_type {n}:{m}, got {sparsity:g}")
    return full if sparsity >= full - 0.01 - 1e-9 else sparsity


def parse_mask_type(mask_type: MaskType) -> str | tuple[int, int]:
    """Read a recipe's ``mask_type``.

    Args:
        mask_type: ``unstructured``, ``block4``, ``[rows, columns]``, ``"N:M"``, SparseML's ``tensorrt`` for 2:4, or
            ``channel`` for whole columns.

    Returns:
        ``unstructured``, ``block4``, ``channel``, (rows, columns) of a block, or the text "N:M".

    Raises:
        ValueError: any other value.
    """
    if isinstance(mask_type, str):
        if mask_type in ("unstructured", "block4", "channel"):
            return mask_type
        if mask_type == "tensorrt":
            return "2:4"
        match = re.fullmatch(r"(\d{1,3}):(\d{1,3})", mask_type)
        if match and 0 < int(match[1]) < int(match[2]):
            return mask_type
    elif isinstance(mask_type, list) and len(mask_type) == 2 and all(type(n) is int and n > 0 for n in mask_type):
        return mask_type[0], mask_type[1]
    raise ValueError(
        f"mask_type must be 'unstructured', 'block4', 'channel', [rows, columns] or 'N:M' with N < M, got {mask_type!r}"
    )


def compute_mask(scores: Tensor, sparsity: float, mask_type: MaskType) -> Tensor:
    """Compute the mask of one weight in the pattern of a recipe.

    Args:
        scores: importance of each weight; any shape for ``unstructured``, 2-d for N:M, 2-d or more for blocks.
        sparsity: fraction to prune, in [0, 1].
        mask_type: see ``parse_mask_type``.

    Returns:
        Bool mask shaped like ``scores``, False where pruned.

    Raises:
        ValueError: the pattern is unknown, or does not fit the shape or the sparsity.
    """
    pattern = parse_mask_type(mask_type)
    if pattern == "unstructured":
        return unstructured_mask(scores, sparsity)
    n_of_m = isinstance(pattern, str) and ":" in pattern
    if scores.dim() < 2 or (n_of_m and scores.dim() > 2):
        raise ValueError(f"mask_type {mask_type!r} needs a matrix, got a weight of shape {tuple(scores.shape)}")
    if isinstance(pattern, tuple) or pattern == "channel":
        return block_mask(scores, sparsity, _block(pattern, scores.shape))
    if pattern == "block4":
        return block4_mask(scores, sparsity)
    n, m = pattern.split(":")
    return n_of_m_mask(scores, sparsity, int(n), int(m))


def num_pruned(shape: torch.Size, sparsity: float, mask_type: MaskType) -> int:
    """Count the weights of a tensor that a mask prunes.

    Args:
        shape: of the weight.
        sparsity: fraction to prune, in [0, 1]; rounded to whole weights, blocks, rows or columns (heads: rows).
        mask_type: see ``parse_mask_type``, or ``filter``, ``channel``, ``head``.
    """
    numel = shape.numel()
    if isinstance(mask_type, str) and mask_type in UNIT_DIMENSION:
        size = shape[UNIT_DIMENSION[mask_type]]
        return round(size * sparsity) * (numel // size)
    pattern = parse_mask_type(mask_type)
    if pattern == "block4" and shape[1] % 4 == 0:
        pattern = (1, 4)
    if isinstance(pattern, str) and ":" in pattern:
        sparsity = n_of_m_sparsity(sparsity, *map(int, pattern.split(":")))
    block = math.prod(pattern) if isinstance(pattern, tuple) else 1
    return round(numel // block * sparsity) * block
