"""Masks against what each pattern promises; tests/parity has them against SparseML's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DebertaV2Config, DebertaV2Model

from sparsification.manager import ScheduledModifierManager
from sparsification.pruning.global_ranking import global_masks
from sparsification.pruning.masks import compute_mask, n_of_m_mask, num_pruned, parse_mask_type, unstructured_mask


def test_two_by_two_blocks_are_two_rows_of_two_columns():
    scores = torch.tensor([[1.0, 1, 9, 0], [1, 1, 0, 0], [5, 5, 3, 3], [5, 5, 3, 3]])  # means 1, 2.25, 5, 3
    mask = compute_mask(scores, 0.5, [2, 2])
    assert mask.tolist() == [[False] * 4, [False] * 4, [True] * 4, [True] * 4]


def test_channel_prunes_whole_columns_by_their_mean_score():
    scores = torch.tensor([[1.0, 9, 0, 4], [2, 0, 1, 4]])  # means 1.5, 4.5, 0.5, 4
    for mask in (compute_mask(scores, 0.5, "channel"), global_masks([scores], 0.5, "channel")[0]):
        assert mask.tolist() == [[False, True, False, True]] * 2
    assert num_pruned(scores.shape, 0.5, "channel") == 4


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
    sparsity = share * (1 - n / m)
    mask = n_of_m_mask(scores, sparsity, n, m)
    kept = mask.view(-1, m).sum(dim=1)
    assert kept.min() >= n
    if sparsity >= 1 - n / m - 0.01:  # as good as complete
        assert kept.eq(n).all()
    else:
        assert int((~mask).sum()) == round(scores.numel() * sparsity)


@pytest.mark.parametrize(("sparsity", "pattern"), [(0.67, "1:3"), (0.66, "1:3"), (0.51, "2:4"), (0.49, "tensorrt")])
def test_a_sparsity_near_its_own_completes_n_of_m_as_in_sparseml(sparsity, pattern):
    scores = torch.rand(4, 12, generator=torch.Generator().manual_seed(0))
    m = 3 if pattern == "1:3" else 4
    kept = compute_mask(scores, sparsity, pattern).view(-1, m).sum(dim=1)
    assert kept.eq(1 if pattern == "1:3" else 2).all()
    with pytest.raises(ValueError, match=r"sparsity must be in \[0, 0\..*got 0.7"):
        compute_mask(scores, 0.7, pattern)


def test_n_of_m_keeps_the_highest_scores_also_below_zero_where_sparseml_kept_the_largest_of_either_sign():
    """Movement scores are negative where a weight goes to zero: SparseML's own ranking by size kept those."""
    scores = torch.tensor([[-9.0, 1.0, 2.0, -1.0], [-4.0, -3.0, -2.0, -1.0]])
    assert compute_mask(scores, 0.5, "2:4").tolist() == [[False, True, True, False], [False, False, True, True]]


def test_rows_that_are_not_made_of_groups_are_refused_where_sparseml_made_groups_across_rows():
    with pytest.raises(ValueError, match="groups of 4 do not tile a weight of shape"):
        compute_mask(torch.rand(4, 6), 0.5, "2:4")


@pytest.mark.parametrize("mask_type", ["block4", [1, 4], [2, 4], [4, 1]])
def test_blocks_of_a_convolution_are_made_of_its_channels_at_each_place_of_the_kernel(mask_type):
    """Each place by itself has the mask of a matrix with as many zeros, if all are ranked together."""
    rows, columns = [1, 4] if mask_type == "block4" else mask_type
    scores = torch.rand(4, 8, 3, generator=torch.Generator().manual_seed(2))
    mask = compute_mask(scores, 0.5, mask_type)
    assert mask.shape == scores.shape
    assert int((~mask).sum()) == scores.numel() // 2
    means = {True: [], False: []}
    for place in range(3):
        for i in range(0, 4, rows):
            for j in range(0, 8, columns):
                tile = mask[i : i + rows, j : j + columns, place]
                assert tile.all() or not tile.any()
                means[bool(tile.all())].append(scores[i : i + rows, j : j + columns, place].mean().item())
    assert max(means[False]) <= min(means[True])
    (together,) = global_masks([scores], 0.5, mask_type)
    assert together.equal(mask)


def test_block4_of_a_convolution_takes_any_number_of_channels():
    scores = torch.rand(2, 6, 3, generator=torch.Generator().manual_seed(3))
    mask = compute_mask(scores, 0.5, "block4")
    for place in range(3):
        for row in mask[:, :, place]:
            assert row[:4].all() or not row[:4].any()
            assert row[4:].all() or not row[4:].any()
    assert 0 < int((~mask).sum()) < mask.numel()


@pytest.mark.parametrize("mask_type", ["block4", "[1, 4]"])
def test_the_convolution_of_deberta_is_pruned_in_blocks(mask_type):
    config = DebertaV2Config(
        vocab_size=20,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_kernel_size=3,
    )
    model = DebertaV2Model(config)
    manager = ScheduledModifierManager.from_yaml(
        "modifiers:\n  - !GMPruningModifier {params: ['re:encoder.conv.conv.weight', 're:encoder.*dense.weight'], "
        f"mask_type: {mask_type}, end_epoch: 1, final_sparsity: 0.5}}\n"
    )
    manager.initialize(model)
    manager.apply_one_shot()
    weight = model.encoder.conv.conv.weight
    assert weight.dim() == 3
    blocks = (weight == 0).view(16, 4, 4, 3).sum(dim=2)  # channels in fours, at each place
    assert set(blocks.flatten().tolist()) == {0, 4}
    assert int((weight == 0).sum()) == weight.numel() // 2
    assert model(torch.ones(1, 4, dtype=torch.long)).last_hidden_state.isfinite().all()


@given(values=st.lists(st.floats(-3, 3, width=16), min_size=1, max_size=40), sparsity=st.floats(0, 1))
def test_no_pruned_score_is_above_a_kept_one(values, sparsity):
    scores = torch.tensor(values)
    mask = unstructured_mask(scores, sparsity)
    assert int((~mask).sum()) == round(len(values) * sparsity)
    if 0 < mask.sum() < len(values):
        assert scores[~mask].max() <= scores[mask].min()


@pytest.mark.parametrize("mask_type", ["block", [0, 4], [1, 2, 3], [1.0, 4], "4:2", "0:4", "2:4:8", 124, None])
def test_unknown_mask_type_is_named(mask_type):
    with pytest.raises(ValueError, match="mask_type must be .*, got"):
        parse_mask_type(mask_type)
