"""Global rankings against a brute-force reference that goes through the sorted scores of all weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.pruning.global_ranking import check_max_sparsity, global_masks
from sparsification.recipe.document import RecipeError


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
    with pytest.raises(ValueError, match="has no global ranking"):
        global_masks([torch.rand(4, 4)], 0.5, "2:4")


def blocks_of(tensor: torch.Tensor, rows: int, columns: int) -> list[list[float]]:
    """The members of each block, row by row of blocks."""
    return [
        tensor[i : i + rows, j : j + columns].flatten().tolist()
        for i in range(0, tensor.shape[0], rows)
        for j in range(0, tensor.shape[1], columns)
    ]


def brute_force(scores: list[torch.Tensor], sparsity: float, block: tuple[int, int], most: float) -> list[list[bool]]:
    """Prune the lowest block of all again and again, passing over those of matrices that have reached their bound."""
    means = [[sum(members) / len(members) for members in blocks_of(score, *block)] for score in scores]
    keeps = [[True] * len(own) for own in means]
    order = sorted((mean, i, j) for i, own in enumerate(means) for j, mean in enumerate(own))
    left = round(len(order) * sparsity)
    for _, i, j in order:
        if left and keeps[i].count(False) + 1 <= len(keeps[i]) * most + 1e-9:
            keeps[i][j] = False
            left -= 1
    assert not left
    return keeps


@given(
    mask_type=st.sampled_from(["unstructured", "block4", [1, 4], [2, 2]]),
    most=st.sampled_from([0.5, 0.8, 0.95, 0.98, 1.0]),
    share=st.floats(0, 1),
    scales=st.lists(st.sampled_from([0.01, 0.5, 1.0, 3.0]), min_size=2, max_size=4),
    seed=st.integers(0, 99),
)
def test_masks_with_a_bound_are_those_of_the_brute_force_reference(mask_type, most, share, scales, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(4, 8), (8, 4), (2, 12), (6, 20)]
    scores = [scale * torch.rand(shape, generator=generator) for scale, shape in zip(scales, shapes, strict=False)]
    block = {"unstructured": (1, 1), "block4": (1, 4)}.get(str(mask_type)) or tuple(mask_type)
    counts = [len(blocks_of(score, *block)) for score in scores]
    sparsity = share * sum(int(count * most + 1e-9) for count in counts) / sum(counts)
    masks = global_masks(scores, sparsity, mask_type, most)
    expected = brute_force(scores, sparsity, block, most)
    for mask, keep in zip(masks, expected, strict=True):
        assert [all(members) for members in blocks_of(mask, *block)] == keep
        assert [any(members) for members in blocks_of(mask, *block)] == keep
        assert (~mask).float().mean() <= most + 1e-6
    zeros = sum(int((~mask).sum()) for mask in masks)
    assert zeros == round(sum(counts) * sparsity) * block[0] * block[1]


def test_a_bound_is_kept_where_scores_are_equal_or_infinite():
    scores = [torch.zeros(4, 5), torch.full((4, 5), torch.inf), torch.ones(4, 5)]
    masks = global_masks(scores, 0.8, "unstructured", 0.9)
    assert [int((~mask).sum()) for mask in masks] == [18, 12, 18]


def test_without_a_bound_an_unimportant_matrix_is_pruned_completely():
    scores = [0.01 * torch.rand(4, 5), 1 + torch.rand(4, 5)]
    assert [int((~mask).sum()) for mask in global_masks(scores, 0.5)] == [20, 0]
    assert [int((~mask).sum()) for mask in global_masks(scores, 0.5, "unstructured", 0.95)] == [19, 1]


def test_impossible_targets_are_refused():
    scores = [torch.rand(10, 10), torch.rand(10, 10)]
    message = "global target 0.99 cannot be reached with max_sparsity 0.95: it prunes 198 of 200 .* at most 190"
    with pytest.raises(ValueError, match=message):
        global_masks(scores, 0.99, "unstructured", 0.95)
    with pytest.raises(ValueError, match="global target 0.9 cannot be reached with max_sparsity 0.9"):
        check_max_sparsity([torch.Size([1, 12])] * 5, 0.9, "block4", 0.9)  # 2 of 3 blocks of each is less than 0.9
    check_max_sparsity([torch.Size([1, 12])] * 5, 0.66, "block4", 0.9)
    check_max_sparsity([torch.Size([1, 10])] * 5, 0.9, "unstructured", 0.9)


RECIPE = """
modifiers:
  - !{kind}
    params: ['re:.*weight']
    start_epoch: 0.0
    end_epoch: 1.0
    max_sparsity: {bound}
    {keys}
"""
RISING = "final_sparsity: 0.8"


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("GlobalMagnitudePruningModifier", RISING),
        ("GMPruningModifier", RISING + "\n    global_sparsity: True\n    mask_type: block4"),
        ("ACDCPruningModifier", "compression_sparsity: 0.8\n    update_frequency: 0.5"),
        ("TopKASTPruningModifier", "forward_sparsity: 0.8\n    backward_sparsity: 0.6"),
    ],
)
@pytest.mark.parametrize("bound", [0.9, 1.0])
def test_modifiers_prune_each_matrix_up_to_the_bound_and_reach_their_target(kind, keys, bound):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(16, 40), torch.nn.Linear(40, 60))
    torch.nn.init.normal_(model[0].weight, std=1e-4)
    torch.nn.init.normal_(model[1].weight)
    manager = ScheduledModifierManager.from_yaml(RECIPE.format(kind=kind, bound=bound, keys=keys))
    manager.initialize(model)
    manager.apply_one_shot()
    sparsities = [(layer.weight == 0).float().mean().item() for layer in model]
    assert sparsities[0] == pytest.approx(bound)
    zeros = sum(int((layer.weight == 0).sum()) for layer in model)
    assert zeros == round(0.8 * (640 + 2400))


@pytest.mark.parametrize(
    ("kind", "bound", "keys", "error", "message"),
    [
        ("GlobalMagnitudePruningModifier", 0.95, "final_sparsity: 0.99", ManagerError, "target 0.99 cannot be reached"),
        (
            "GlobalMagnitudePruningModifier",
            0.5,
            "init_sparsity: 0.9\n    final_sparsity: 0.4",
            ManagerError,
            "global target 0.9 cannot be reached with max_sparsity 0.5",
        ),
        ("GMPruningModifier", 0.95, RISING, RecipeError, "max_sparsity 0.95 needs global_sparsity True"),
        ("GlobalMagnitudePruningModifier", 0.0, RISING, RecipeError, r"max_sparsity must be in \(0, 1\], got 0"),
        ("GlobalMagnitudePruningModifier", 1.2, RISING, RecipeError, r"max_sparsity must be in \(0, 1\], got 1.2"),
        ("StructuredPruningModifier", 0.95, RISING, RecipeError, "has no key 'max_sparsity'"),
        ("RigLPruningModifier", 0.95, RISING, RecipeError, "has no key 'max_sparsity'"),
    ],
)
def test_a_bound_that_does_not_fit_is_refused_before_training(kind, bound, keys, error, message):
    with pytest.raises(error, match=message):
        recipe = RECIPE.format(kind=kind, bound=bound, keys=keys)
        ScheduledModifierManager.from_yaml(recipe).initialize(torch.nn.Sequential(torch.nn.Linear(16, 16)))
