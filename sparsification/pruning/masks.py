"""Which weights stay and which go, given a score for each and a share to prune?

Pure functions: scores and a sparsity in, a bool keep-mask out. Nothing here knows a model, a schedule or a recipe.
Rounding, block scores and the choice among equal scores are those of SparseML 1.8.0, so that the same weights give
the same masks there and here (`tests/golden/masks` holds what it did).
"""

import math
import random
import re
from collections.abc import Sequence

import torch
from torch import Tensor

UNIT_DIMENSION = {"filter": 0, "channel": 1, "head": 0}  # of a weight (out_features, in_features)

MaskType = str | list[int]


def unstructured_mask(scores: Tensor, sparsity: float) -> Tensor:
    """Keep the highest scores, wherever they are.

    Of equal scores at the threshold the first in row-major order stay. Where the threshold is the lowest score of
    all (a tensor with many zeros), no order is meaningful and a fixed shuffle chooses, so that pruning is not
    concentrated in the last rows.

    Args:
        scores: importance of each weight, any shape, e.g. ``weight.abs()``.
        sparsity: fraction to prune, in [0, 1]; ``round(n * sparsity)`` weights go.

    Returns:
        Bool mask shaped like ``scores``, False where pruned.
    """
    flat = scores.flatten()
    num_pruned = round(flat.numel() * sparsity)
    if num_pruned <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    if num_pruned >= flat.numel():
        return torch.zeros_like(scores, dtype=torch.bool)
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
    return keep.view_as(scores)


def global_masks(scores: Sequence[Tensor], sparsity: float, mask_type: MaskType = "unstructured") -> list[Tensor]:
    """Keep the highest scores of all tensors together: unimportant tensors lose more than important ones.

    Args:
        scores: one tensor of scores per weight; any shapes, 2-d or more where ``mask_type`` is one of blocks.
        sparsity: fraction to prune of all of them together, in [0, 1].
        mask_type: ``unstructured``, or blocks, which are ranked by their mean scores: ``block4``, ``[rows, columns]``.

    Returns:
        One bool mask per tensor of scores.

    Raises:
        ValueError: the blocks do not tile a tensor, or the pattern has its own number of zeros (N:M).
    """
    pattern = parse_mask_type(mask_type)
    if pattern == "unstructured":
        ranked = scores
    elif pattern == "block4" or isinstance(pattern, tuple):
        ranked = [_block_means(score, pattern) for score in scores]
    else:
        raise ValueError(f"mask_type {mask_type!r} prunes every weight alike: there is nothing to rank globally")
    keep = unstructured_mask(torch.cat([score.flatten() for score in ranked]), sparsity)
    parts = keep.split([score.numel() for score in ranked])
    masks = [part.view_as(score) for part, score in zip(parts, ranked, strict=True)]
    if pattern == "unstructured":
        return masks
    return [_expand_block_mask(mask, score.shape, pattern) for mask, score in zip(masks, scores, strict=True)]


def block_mask(scores: Tensor, sparsity: float, block: tuple[int, int]) -> Tensor:
    """Keep the blocks with the highest mean score; a block stays or goes as a whole.

    Args:
        scores: (out_features, in_features) of a Linear weight, or (out, in, ...) of a convolution's, whose blocks are
            made of its channels at each place of the kernel.
        sparsity: fraction of the blocks to prune, in [0, 1].
        block: (rows, columns); ``(1, 4)`` is four consecutive input features, what int8 kernels consume at once.

    Returns:
        Bool mask shaped like ``scores``.

    Raises:
        ValueError: the blocks do not tile the tensor.
    """
    return _expand_block_mask(unstructured_mask(_block_means(scores, block), sparsity), scores.shape, block)


def block4_mask(scores: Tensor, sparsity: float) -> Tensor:
    """Keep the groups of four consecutive weights of a row with the highest mean score.

    The same as ``block_mask(scores, sparsity, (1, 4))``, but any row length will do: the last group of a row may have
    fewer than four members.

    Args:
        scores: (out_features, in_features), or (out, in, ...) of a convolution.
        sparsity: fraction of the groups to prune, in [0, 1].

    Returns:
        Bool mask shaped like ``scores``.
    """
    return _expand_block_mask(unstructured_mask(_block_means(scores, "block4"), sparsity), scores.shape, "block4")


def _block_means(scores: Tensor, pattern: str | tuple[int, int]) -> Tensor:
    """Mean score of each block; ``pattern`` is ``block4`` or (rows, columns).

    Returns:
        (rows of blocks, columns of blocks), of a convolution with its kernel's shape behind; of ``block4`` with the
        kernel's places as further rows.
    """
    if pattern == "block4":
        columns = scores.shape[1]
        scores = scores.movedim(1, -1).reshape(-1, columns)
        groups = torch.nn.functional.pad(scores, (0, -columns % 4)).unflatten(1, (-1, 4))
        sizes = (columns - 4 * torch.arange(groups.shape[1], device=scores.device)).clamp(max=4)
        return groups.sum(dim=2) / sizes
    rows, columns = pattern
    if scores.dim() < 2 or scores.shape[0] % rows or scores.shape[1] % columns:
        raise ValueError(f"blocks of {rows}x{columns} do not tile a weight of shape {tuple(scores.shape)}")
    return scores.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).mean(dim=(1, 3))


def _expand_block_mask(keep: Tensor, shape: torch.Size, pattern: str | tuple[int, int]) -> Tensor:
    """The mask of the weights, of ``shape``, from the mask of their blocks."""
    if pattern == "block4":
        mask = keep.repeat_interleave(4, dim=1)[:, : shape[1]]
        return mask.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)
    rows, columns = pattern
    return keep.repeat_interleave(rows, dim=0).repeat_interleave(columns, dim=1)


def n_of_m_mask(scores: Tensor, sparsity: float, n: int, m: int) -> Tensor:
    """Keep at least the ``n`` highest of every ``m`` consecutive scores of a row.

    Mishra et al. 2021, arXiv:2104.08378. At the full sparsity of 1 - n/m exactly n of m stay. Below it the lowest of
    the weights that may go are pruned, so that a schedule can rise to the pattern step by step.

    Args:
        scores: 2-d, (out_features, in_features), in_features a multiple of ``m``.
        sparsity: fraction to prune, in [0, 1 - n/m]; see ``n_of_m_sparsity``.
        n: weights to keep in each group.
        m: weights in a group.

    Returns:
        Bool mask shaped like ``scores``.

    Raises:
        ValueError: more is to be pruned than the pattern allows, or the groups do not tile the tensor.
    """
    if scores.shape[-1] % m:
        raise ValueError(f"groups of {m} do not tile a weight of shape {tuple(scores.shape)}")
    sparsity = n_of_m_sparsity(sparsity, n, m)
    groups = scores.reshape(-1, m)
    rank = groups.argsort(dim=1, stable=True).argsort(dim=1)
    prunable = groups.masked_fill(rank >= m - n, torch.inf)
    return unstructured_mask(prunable, sparsity).view_as(scores)


def n_of_m_sparsity(sparsity: float, n: int, m: int) -> float:
    """The sparsity that an N:M pattern makes of one that is asked for: its own where they differ by 0.01 at most.

    So 0.67 completes 1:3, as in SparseML.

    Raises:
        ValueError: more is to be pruned than the pattern allows.
    """
    full = 1 - n / m
    if sparsity > full + 0.01 + 1e-9:
        raise ValueError(f"{n}:{m} keeps {n} of every {m} weights: a sparsity of {sparsity} is over {full}")
    return full if sparsity >= full - 0.01 - 1e-9 else sparsity


def parse_mask_type(mask_type: MaskType) -> str | tuple[int, int]:
    """Read a recipe's ``mask_type``.

    Args:
        mask_type: ``unstructured``, ``block4``, ``[rows, columns]``, ``"N:M"``, or SparseML's ``tensorrt``.

    Returns:
        The name, (rows, columns) of a block; an N:M pattern stays the text it was, ``tensorrt`` is 2:4.

    Raises:
        ValueError: anything else.
    """
    if mask_type in ("unstructured", "block4"):
        return mask_type
    if mask_type == "tensorrt":
        return "2:4"
    if isinstance(mask_type, list) and len(mask_type) == 2 and all(type(n) is int and n > 0 for n in mask_type):
        return mask_type[0], mask_type[1]
    match = re.fullmatch(r"(\d{1,3}):(\d{1,3})", mask_type) if isinstance(mask_type, str) else None
    if match and 0 < int(match[1]) < int(match[2]):
        return mask_type
    raise ValueError(f"mask_type {mask_type!r} is none of 'unstructured', 'block4', [rows, columns], 'N:M' with N < M")


def compute_mask(scores: Tensor, sparsity: float, mask_type: MaskType) -> Tensor:
    """Mask one weight by its scores in the pattern that a recipe names.

    Args:
        scores: importance of each weight; any shape for ``unstructured``, 2-d for N:M, 2-d or more for blocks.
        sparsity: fraction to prune, in [0, 1].
        mask_type: see ``parse_mask_type``.

    Returns:
        Bool mask shaped like ``scores``, False where pruned.

    Raises:
        ValueError: the pattern is unknown or does not fit the shape or the sparsity.
    """
    pattern = parse_mask_type(mask_type)
    if pattern == "unstructured":
        return unstructured_mask(scores, sparsity)
    n_of_m = isinstance(pattern, str) and ":" in pattern
    if scores.dim() < 2 or (n_of_m and scores.dim() > 2):
        raise ValueError(f"mask_type {mask_type!r} is for matrices, not for a weight of shape {tuple(scores.shape)}")
    if pattern == "block4":
        return block4_mask(scores, sparsity)
    if n_of_m:
        n, m = pattern.split(":")
        return n_of_m_mask(scores, sparsity, int(n), int(m))
    return block_mask(scores, sparsity, pattern)


def num_pruned(shape: torch.Size, sparsity: float, mask_type: MaskType) -> int:
    """How many weights of a tensor a mask zeroes: it rounds to weights, blocks, rows or columns (heads: to rows)."""
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
