"""Rounded weights are integers of so many bits, nearest to the weights on their scales."""

import pytest
import torch

from sparsification.plan.rounding import round_weight


@pytest.mark.parametrize("bits", [7, 8])
def test_largest_weight_of_each_output_takes_the_largest_integer(bits):
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    integers, scale = round_weight(weight, bits)
    largest = integers.abs().amax(dim=1).tolist()
    assert largest == [0 if row == 2 else 2 ** (bits - 1) - 1 for row in range(5)]
    assert torch.equal(integers, integers.round()) and scale.shape == (5, 1)
    assert (weight - integers * scale).abs().le(scale / 2 * 1.001).all()
