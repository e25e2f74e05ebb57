"""Inverse Fisher blocks and the moves of OBS, against dense linear algebra."""

import pytest
import torch

from sparsification.pruning import fisher


def problem(num_weights: int, block: int, count: int = 40, damp: float = 0.01, seed: int = 0):
    """Gradients, weights, the inverse built gradient by gradient, and the dense Fisher matrix cut to its blocks."""
    generator = torch.Generator().manual_seed(seed)
    gradients = torch.randn(count, num_weights, generator=generator)
    weight = torch.randn(num_weights, generator=generator)
    inverse = fisher.damped_inverse(num_weights, block, damp)
    for gradient in gradients:
        fisher.add_gradient_(inverse, gradient, count)
    dense = gradients.double().T @ gradients.double() / count + damp * torch.eye(num_weights)
    number = torch.arange(num_weights) // block
    return weight, inverse, dense * (number[:, None] == number[None, :])


def blocks_of(matrix: torch.Tensor) -> torch.Tensor:
    return torch.block_diag(*matrix)


@pytest.mark.parametrize(("num_weights", "block"), [(12, 1), (12, 4), (12, 12), (13, 5)])
def test_inverse_is_the_dense_blocks_inverse(num_weights, block):
    _, inverse, dense = problem(num_weights, block)
    ours = blocks_of(inverse)[:num_weights, :num_weights].double()
    torch.testing.assert_close(ours, torch.linalg.inv(dense), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("num_weights", "block"), [(12, 1), (13, 5)])
@pytest.mark.parametrize("damp", [1e-6, 0.01, 10.0])
def test_matrix_that_is_inverted_for_each_damp_has_the_inverse_of_the_dense_blocks(num_weights, block, damp):
    count = 40
    gradients = torch.randn(count, num_weights, generator=torch.Generator().manual_seed(0))
    matrix = torch.zeros(-(-num_weights // block), block, block)
    for gradient in gradients:
        fisher.add_outer_product_(matrix, gradient, count)
    ours = blocks_of(fisher.inverse_with_damp(matrix, damp))[:num_weights, :num_weights].double()
    _, _, dense = problem(num_weights, block, count, damp)
    torch.testing.assert_close(ours, torch.linalg.inv(dense), rtol=1e-4, atol=1e-4)


def test_block_that_is_not_positive_definite_has_no_inverse():
    inverse = fisher.inverse_with_damp(torch.stack([torch.eye(2), -torch.eye(2)]), 0.5)
    torch.testing.assert_close(inverse[0], torch.eye(2) / 1.5)
    assert inverse[1].isnan().all()


def pruned_at_least_cost(weight: torch.Tensor, hessian: torch.Tensor, group: list[int]) -> torch.Tensor:
    """The move that minimizes 1/2 d' H d where w + d is zero in the group: the KKT system, solved."""
    n, q = len(weight), len(group)
    select = torch.eye(n, dtype=torch.float64)[group]
    system = torch.cat([torch.cat([hessian, select.T], 1), torch.cat([select, torch.zeros(q, q)], 1)])
    return torch.linalg.solve(system, torch.cat([torch.zeros(n), -weight[group].double()]).double())[:n]


@pytest.mark.parametrize("group", [1, 4])
def test_saliency_and_surgery_are_the_constrained_optimum(group):
    weight, inverse, dense = problem(16, 8)
    scores = fisher.saliency(weight, inverse, group)
    for first in range(0, 16, group):
        members = list(range(first, first + group))
        move = pruned_at_least_cost(weight, dense, members)
        cost = 0.5 * move @ dense @ move
        torch.testing.assert_close(scores[members].double(), cost.expand(group), rtol=1e-3, atol=1e-5)
        keep = torch.ones(16, dtype=torch.bool)
        keep[members] = False
        ours = fisher.obs_update(weight, inverse, keep, group).double()
        torch.testing.assert_close(ours, move, rtol=1e-3, atol=1e-4)


def test_moves_for_several_groups_are_added_up_as_in_obert():
    weight, inverse, _ = problem(16, 8)
    keep = torch.ones(16, dtype=torch.bool)
    single = []
    for index in (1, 2, 9):
        alone = torch.ones(16, dtype=torch.bool)
        alone[index] = keep[index] = False
        single.append(fisher.obs_update(weight, inverse, alone))
    torch.testing.assert_close(fisher.obs_update(weight, inverse, keep), sum(single))


@pytest.mark.parametrize("group", [1, 4])
def test_where_rounding_spoils_the_inverse_weights_are_important(group):
    inverse = torch.diag(torch.tensor([5.0, 5.0, 5.0, -1.0, 5.0, 5.0, 5.0, 5.0]))[None]
    scores = fisher.saliency(torch.ones(8), inverse, group)
    assert (scores >= 0).all()
    assert scores[3] == scores.max() > 1e6


def test_correlated_features_are_pruned_at_a_lower_loss_than_by_magnitude():
    """Least squares, where the Fisher matrix of unit noise is the Hessian: half of the weights go."""
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(500, 8, generator=generator) @ torch.randn(8, 8, generator=generator)
    weight = torch.randn(8, generator=generator)
    target = features @ weight
    inverse = fisher.damped_inverse(8, 8, 1e-6)
    for row in features:
        fisher.add_gradient_(inverse, row, len(features))

    def loss_of(scores: torch.Tensor, surgeon: bool) -> float:
        keep = scores >= scores.sort().values[4]
        moved = weight + fisher.obs_update(weight, inverse, keep) if surgeon else weight
        return ((features @ (moved * keep) - target) ** 2).mean().item()

    assert loss_of(fisher.saliency(weight, inverse), True) < loss_of(weight.abs(), False)
