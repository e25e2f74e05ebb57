"""Sparsity of tensors and of a model's encoder."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparsification.encoder import encoder_layer_lists


def count_zeros(weights: Sequence[Tensor]) -> list[int]:
    """Count the zeros of each tensor, with one synchronization if they are on a GPU.

    Args:
        weights: any shapes, on one device.

    Returns:
        Zeros of each tensor.
    """
    if not weights:
        return []
    counts = torch.stack([weight.detach().count_nonzero() for weight in weights]).tolist()
    return [weight.numel() - count for weight, count in zip(weights, counts, strict=True)]


def encoder_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Find the layers of a model's encoder, those that ``__ENCODER__`` means, by name."""
    lists = encoder_layer_lists(model)
    return {f"{name}.{index}": layer for name, layers in lists.items() for index, layer in enumerate(layers)}


def encoder_sparsity(model: nn.Module) -> dict[str, float]:
    """Measure the sparsity of the matrices of the encoder, in [0, 1].

    Returns:
        ``sparsity/encoder``, and ``sparsity/layer.0`` and so on for each layer; empty for a model without layers.
    """
    matrices = {
        f"sparsity/layer.{index}": [parameter for parameter in layer.parameters() if parameter.dim() > 1]
        for index, layer in enumerate(encoder_layers(model).values())
    }
    zeros = iter(count_zeros([matrix for layer in matrices.values() for matrix in layer]))
    counts = {
        name: (sum(next(zeros) for _ in layer), sum(matrix.numel() for matrix in layer))
        for name, layer in matrices.items()
    }
    pruned, weights = (sum(column) for column in zip(*counts.values(), strict=True)) if counts else (0, 0)
    if not weights:
        return {}
    shares = {name: count / max(size, 1) for name, (count, size) in counts.items()}
    return {"sparsity/encoder": pruned / weights} | shares
