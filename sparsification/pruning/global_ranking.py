"""Pruning masks of several weights from one ranking of all their scores.

Without a bound a global ranking can prune a matrix completely. ``max_sparsity`` bounds the sparsity of each, as
``max_sparsity_ratio_per_op`` does in Intel Neural Compressor. Pure functions, as in ``masks``.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sparsification.pruning import masks


def global_masks(
    scores: Sequence[Tensor], sparsity: float, mask_type: masks.MaskType = "unstructured", max_sparsity: float = 1.0
) -> list[Tensor]:
    """Keep the highest scores of all tensors together, so that less important tensors are pruned more.

    Args:
        scores: one tensor of scores per weight; any shapes, 2-d or more for blocks.
        sparsity: fraction to prune of all weights together, in [0, 1].
        mask_type: ``unstructured``, or blocks, which are ranked by their mean scores: ``block4``, ``[rows, columns]``,
            ``channel``.
        max_sparsity: upper bound for the sparsity of each tensor, in (0, 1], counted in weights or blocks and rounded
            down. A tensor that reaches it keeps its highest scores; the other tensors are pruned more instead, so that
            ``sparsity`` is reached exactly.

    Returns:
        One bool mask per tensor of scores, False where pruned.

    Raises:
        ValueError: the blocks do not tile a tensor, the pattern has a sparsity of its own (N:M), or ``max_sparsity`` is
            too low to reach ``sparsity``.
    """
    pattern = masks.parse_mask_type(mask_type)
    if pattern == "unstructured":
        ranked = scores
    elif pattern in ("block4", "channel") or isinstance(pattern, tuple):
        ranked = [masks.block_means(score, pattern) for score in scores]
    else:
        raise ValueError(f"mask_type {mask_type!r} has a sparsity of its own: it has no global ranking")
    sizes = [score.numel() for score in ranked]
    flat = torch.cat([score.flatten() for score in ranked])
    num_pruned = round(len(flat) * sparsity)
    if max_sparsity < 1:
        limits = _limits(sizes, sparsity, max_sparsity)
        prunable = torch.cat([~masks.keep_highest(s.flatten(), n) for s, n in zip(ranked, limits, strict=True)])
        keep = ~prunable
        keep[prunable] = masks.keep_highest(flat[prunable], num_pruned)
    else:
        keep = masks.keep_highest(flat, num_pruned)
    parts = keep.split(sizes)
    keeps = [part.view_as(score) for part, score in zip(parts, ranked, strict=True)]
    if pattern == "unstructured":
        return keeps
    return [masks.expand_block_mask(mask, score.shape, pattern) for mask, score in zip(keeps, scores, strict=True)]


def check_max_sparsity(
    shapes: Sequence[torch.Size], sparsity: float, mask_type: masks.MaskType, max_sparsity: float
) -> None:
    """Raise a ValueError if ``global_masks`` cannot reach a sparsity without exceeding ``max_sparsity``.

    Args:
        shapes: of the weights.
        sparsity: fraction to prune of all weights together, in [0, 1].
        mask_type: ``unstructured``, ``block4``, ``channel`` or ``[rows, columns]``.
        max_sparsity: upper bound for the sparsity of each weight, in (0, 1].
    """
    pattern = masks.parse_mask_type(mask_type)
    if pattern == "block4":
        sizes = [shape.numel() // shape[1] * math.ceil(shape[1] / 4) for shape in shapes]
    elif pattern == "channel":
        sizes = [shape[1] for shape in shapes]
    else:
        sizes = [shape.numel() // (math.prod(pattern) if isinstance(pattern, tuple) else 1) for shape in shapes]
    _limits(sizes, sparsity, max_sparsity)


def _limits(sizes: Sequence[int], sparsity: float, max_sparsity: float) -> list[int]:
    """How many of the weights or blocks of each tensor may be pruned; raises ValueError if too few for ``sparsity``."""
    limits = [math.floor(size * max_sparsity + 1e-6) for size in sizes]  # 0.29 * 100 is 28.999999999999996
    num_pruned = round(sum(sizes) * sparsity)
    if sum(limits) < num_pruned:
        raise ValueError(
            f"global target {sparsity:g} cannot be reached with max_sparsity {max_sparsity:g}: it prunes {num_pruned} "
            f"of {sum(sizes)} weights or blocks, and at most {sum(limits)} may be pruned"
        )
    return limits
