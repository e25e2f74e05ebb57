"""Masks against what each pattern promises; tests/parity has them against SparseML's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsification.masks import global_masks, keep_mask, n_of_m_mask, parse_mask_type, unstructured_mask


def test_two_by_two_blocks_are_two_rows_of_two_columns():
    scores = torch.tensor([[1.0, 1, 9, 0], [1, 1, 0, 0], [5, 5, 3, 3], [5, 5, 3, 3]])  # means 1, 2.25, 5, 3
    mask = keep_mask(scores, 0.5, [2, 2])
    assert mask.tolist() == [[False] * 4, [False] * 4, [True] * 4, [True] * 4]


@given(
    rows=st.integers(1, 6),
    groups=st.integers(1, 6),
    share=st.floats(0, 1),
    pattern=st.sampled_from([(1, 4), (2, 4), (3, 4), (1, 2), (4, 8)]),
    seed=st.integers(0, 99),
)
def test_n_of_m_keeps_n_of_every_m_at_every_sparsity(rows, groups, share, pattern, seed):
    n, m = pattern
    scores = torch.rand(rows, groups * m, generator=torch.Generator().manual_seed(seed))
    mask = n_of_m_mask(scores, share * (1 - n / m), n, m)
    kept = mask.view(-1, m).sum(dim=1)
    assert kept.min() >= n
    assert int((~mask).sum()) == round(scores.numel() * share * (1 - n / m))
    if share == 1.0:
        assert kept.eq(n).all()


@given(values=st.lists(st.floats(-3, 3, width=16), min_size=1, max_size=40), sparsity=st.floats(0, 1))
def test_no_pruned_score_is_above_a_kept_one(values, sparsity):
    scores = torch.tensor(values)
    mask = unstructured_mask(scores, sparsity)
    assert int((~mask).sum()) == round(len(values) * sparsity)
    if 0 < mask.sum() < len(values):
        assert scores[~mask].max() <= scores[mask].min()


@pytest.mark.parametrize("mask_type", ["block", [0, 4], [1, 2, 3], [1.0, 4], "4:2", "0:4", "2:4:8", 124, None])
def test_unknown_mask_type_is_named(mask_type):
    with pytest.raises(ValueError, match="is none of"):
        parse_mask_type(mask_type)


@pytest.mark.parametrize("mask_type", ["block4", [1, 4], [2, 4]])
def test_blocks_of_all_weights_are_ranked_together(mask_type):
    generator = torch.Generator().manual_seed(5)
    scores = [torch.rand(4, 16, generator=generator), 0.5 * torch.rand(8, 8, generator=generator)]
    masks = global_masks(scores, 0.5, mask_type)
    rows, columns = [1, 4] if mask_type == "block4" else mask_type
    means, kept = [], []
    for score, mask in zip(scores, masks, strict=True):
        for i in range(0, score.shape[0], rows):
            for j in range(0, score.shape[1], columns):
                tile = mask[i : i + rows, j : j + columns]
                assert tile.all() or not tile.any()
                means.append(score[i : i + rows, j : j + columns].mean().item())
                kept.append(bool(tile.all()))
    assert sum(kept) == len(kept) // 2
    threshold = sorted(means)[len(means) // 2]
    assert kept == [mean >= threshold for mean in means]
    assert masks[0].float().mean() > masks[1].float().mean()


def test_patterns_with_their_own_number_of_zeros_are_not_ranked_together():
    with pytest.raises(ValueError, match="nothing to rank globally"):
        global_masks([torch.rand(4, 4)], 0.5, "2:4")
