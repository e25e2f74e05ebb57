"""Masks and refits of one linear layer against brute force, least squares and closed forms."""

import itertools

import pytest
import torch

from sparsification.pruning import masks
from sparsification.pruning.reconstruction import Moments, alps_mask, refit, sparsegpt, wanda_mask

PATTERNS = [(0.5, "unstructured"), (0.8, "unstructured"), (0.5, [1, 4]), (0.5, [4, 1]), (0.5, "2:4"), (0.6, "block4")]


def layer(rows: int, columns: int, seed: int = 0, tokens: int = 200, noise: float = 0.1):
    """Correlated inputs of the pruned model, weights, and outputs of the dense model, whose inputs differ a little."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    dense = draw(tokens, columns) @ draw(columns, columns) + draw(columns)
    weight = draw(rows, columns)
    return dense + noise * draw(tokens, columns), weight, dense @ weight.T


def problem(inputs, weight, outputs, dampening=0.01):
    moments = Moments(weight.shape[1], [weight.shape[0]])
    for rows in torch.arange(len(inputs)).split(64):
        moments.add(inputs[rows], [outputs[rows]])
    return moments.problem(0, weight, dampening)


def loss(stated, weight):
    """The loss of new weights above that of the best dense ones."""
    difference = weight.double() - stated.optimum()
    return float(((difference @ stated.hessian) * difference).sum())


def test_moments_are_those_of_all_tokens():
    inputs, weight, outputs = layer(3, 8)
    stated = problem(inputs, weight, outputs)
    x, t = inputs.double(), outputs.double()
    damping = 0.01 * x.square().mean()
    torch.testing.assert_close(stated.hessian, x.T @ x / 200 + damping * torch.eye(8), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stated.cross, t.T @ x / 200 + damping * weight, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(stated.input_norms, inputs.square().mean(0).sqrt())


def test_relative_error_is_that_of_the_outputs():
    inputs, weight, outputs = layer(3, 8)
    pruned = weight * masks.compute_mask(weight.abs(), 0.5, "unstructured")
    expected = (inputs @ pruned.T - outputs).square().sum() / outputs.square().sum()
    assert problem(inputs, weight, outputs).relative_error(pruned) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize(("sparsity", "pattern"), PATTERNS)
def test_refit_is_least_squares_on_the_kept_columns(sparsity, pattern):
    inputs, weight, outputs = layer(8, 16)
    stated = problem(inputs, weight, outputs)
    keep = masks.compute_mask(weight.abs(), sparsity, pattern)
    ours = refit(stated, keep)
    x, t = inputs.double(), outputs.double()
    # The pull of the damping towards the weights: rows of data of their own.
    root = (stated.damping * len(x)) ** 0.5
    for row, kept in enumerate(keep):
        system = torch.cat([x[:, kept], root * torch.eye(16, dtype=torch.float64)[:, kept]])
        right = torch.cat([t[:, row], root * weight[row].double()])
        best = torch.linalg.lstsq(system, right[:, None]).solution[:, 0]
        torch.testing.assert_close(ours[row, kept], best, rtol=1e-4, atol=1e-4)
    assert (ours[~keep] == 0).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("sparsity", "pattern"), PATTERNS)
def test_refit_never_has_a_larger_error_than_the_mask_alone(sparsity, pattern, seed):
    inputs, weight, outputs = layer(16, 32, seed, tokens=20)  # fewer tokens than columns
    stated = problem(inputs, weight, outputs)
    for keep in (masks.compute_mask(weight.abs(), sparsity, pattern), wanda_mask(stated, sparsity, pattern)):
        assert stated.relative_error(refit(stated, keep)) <= stated.relative_error(weight * keep) + 1e-12


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("sparsity", "pattern"), PATTERNS)
def test_alps_is_not_worse_than_the_other_masks_refitted(sparsity, pattern, seed):
    stated = problem(*layer(16, 32, seed))
    ours = loss(stated, refit(stated, alps_mask(stated, sparsity, pattern)))
    magnitude = masks.compute_mask(stated.weight.abs(), sparsity, pattern)
    for keep in (magnitude, wanda_mask(stated, sparsity, pattern), sparsegpt(stated, sparsity, pattern, 16)[1]):
        assert ours <= loss(stated, refit(stated, keep)) * 1.001


@pytest.mark.parametrize("seed", range(5))
def test_alps_comes_near_the_best_of_all_masks(seed):
    stated = problem(*layer(1, 10, seed))
    all_masks = []
    for kept in itertools.combinations(range(10), 5):
        keep = torch.zeros(1, 10, dtype=torch.bool)
        keep[0, list(kept)] = True
        all_masks.append(loss(stated, refit(stated, keep)))
    ours = loss(stated, refit(stated, alps_mask(stated, 0.5, "unstructured")))
    assert sum(other < ours * 0.999 for other in all_masks) <= 0.05 * len(all_masks)


@pytest.mark.parametrize(("sparsity", "pattern"), PATTERNS)
def test_methods_prune_as_many_as_the_pattern_says(sparsity, pattern):
    stated = problem(*layer(12, 40))
    expected = masks.num_pruned(torch.Size([12, 40]), sparsity, pattern)
    weight, keep = sparsegpt(stated, sparsity, pattern, block_size=8)
    for found in (keep, wanda_mask(stated, sparsity, pattern), alps_mask(stated, sparsity, pattern)):
        assert int((~found).sum()) == expected
        if isinstance(pattern, list):
            rows, columns = pattern
            blocks = found.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).transpose(1, 2).flatten(2)
            assert (blocks.all(-1) | ~blocks.any(-1)).all()
        if pattern == "2:4":
            assert (found.unflatten(1, (-1, 4)).sum(-1) == 2).all()
    assert (weight[~keep] == 0).all()


def uncorrelated(rows: int, columns: int, scales: torch.Tensor):
    """Inputs whose second moments are diagonal, exactly."""
    inputs = torch.cat([torch.diag(scales), -torch.diag(scales)])
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(3))
    return inputs, weight, inputs @ weight.T


@pytest.mark.parametrize(("sparsity", "pattern"), PATTERNS)
def test_without_correlations_and_at_equal_norms_the_best_mask_is_magnitudes(sparsity, pattern):
    stated = problem(*uncorrelated(8, 16, torch.full((16,), 2.0)))
    expected = masks.compute_mask(stated.weight.square(), sparsity, pattern)
    # ADMM may stand still beside it, where a block is nearly as good as another.
    assert loss(stated, refit(stated, alps_mask(stated, sparsity, pattern))) <= 1.05 * loss(
        stated, stated.weight * expected
    )
    weight, keep = sparsegpt(stated, sparsity, pattern, block_size=16)
    assert torch.equal(keep, expected)
    torch.testing.assert_close(weight, stated.weight * expected)
    torch.testing.assert_close(refit(stated, expected).float(), stated.weight * expected)
    # Wanda ranks each row by itself.
    rows = [masks.compute_mask(row, 0.5, "unstructured") for row in stated.weight.abs()]
    assert torch.equal(wanda_mask(stated, 0.5, "unstructured"), torch.stack(rows))


def test_without_correlations_alps_ranks_by_weight_times_norm():
    scales = torch.linspace(0.5, 3.0, 16)
    stated = problem(*uncorrelated(8, 16, scales), dampening=1e-6)
    expected = masks.compute_mask(stated.weight.abs() * scales, 0.5, "unstructured")
    assert torch.equal(alps_mask(stated, 0.5, "unstructured"), expected)


def test_sparsegpt_moves_each_row_to_the_optimum_given_what_went_and_what_is_left_of_it():
    """With one column pruned the columns to its right are the best ones: those to its left stay as they are."""
    stated = problem(*layer(1, 6))
    best = stated.optimum()[0]
    keep = sparsegpt(stated, 1 / 6, "unstructured", block_size=6)[1][0]
    column = int((~keep).nonzero())
    right = torch.arange(column + 1, 6)
    moved = best.clone()
    moved[column] = 0.0
    hessian = stated.hessian
    moved[right] += torch.linalg.solve(hessian[right[:, None], right], hessian[right, column] * best[column])
    torch.testing.assert_close(sparsegpt(stated, 1 / 6, "unstructured", 6)[0][0].double(), moved, rtol=1e-4, atol=1e-4)


def test_blocks_of_columns_change_sparsegpts_arithmetic_and_not_its_result():
    stated = problem(*layer(8, 32))
    whole, narrow = (sparsegpt(stated, 0.5, "2:4", block_size=size) for size in (32, 4))
    assert torch.equal(whole[1], narrow[1])
    torch.testing.assert_close(whole[0], narrow[0], rtol=1e-3, atol=1e-4)


def test_rows_with_the_same_mask_are_refitted_as_each_alone():
    stated = problem(*layer(8, 16))
    keep = masks.compute_mask(stated.weight.abs(), 0.5, [4, 1])
    together = refit(stated, keep)
    for row in range(8):
        alone = problem(*layer(8, 16))
        single = torch.ones_like(keep)
        single[row] = keep[row]
        torch.testing.assert_close(refit(alone, single)[row], together[row])


def test_inputs_that_are_always_zero_break_nothing():
    inputs, weight, outputs = layer(4, 8)
    inputs[:, 3:5] = 0.0
    for stated in (problem(inputs, weight, outputs), problem(inputs * 0, weight, outputs * 0)):
        for keep in (alps_mask(stated, 0.5, "unstructured"), sparsegpt(stated, 0.5, "unstructured", 8)[1]):
            assert refit(stated, keep).isfinite().all()
            assert int(keep.sum()) == 16
