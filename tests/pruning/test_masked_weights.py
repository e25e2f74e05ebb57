"""Weights with masks: how many of them a new mask changes."""

import torch
from torch import nn

from sparsification.pruning.masked_weights import MaskedWeights


def test_changes_of_masks_are_counted_once():
    weights = {name: nn.Parameter(torch.ones(8)) for name in ("a", "b")}
    masked = MaskedWeights(weights)
    assert masked.pop_change_ratio() == 0.0
    keep = torch.tensor([True] * 6 + [False] * 2)
    masked.set_mask("a", keep)  # two go
    masked.set_mask("a", keep.flip(0))  # two come back, two go
    assert masked.pop_change_ratio() == 6 / 16
    assert masked.pop_change_ratio() == 0.0
    masked.remove_masks()  # two come back
    assert masked.pop_change_ratio() == 2 / 16
