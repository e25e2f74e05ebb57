"""Logits as distributions: which outputs they are, padding, divergence, and labels that are drawn from them."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from sparsification.model_outputs import INTERMEDIATE_OUTPUTS

_MASKED_LOGIT = torch.finfo(torch.float16).min  # its probability is 0; finite in 16 bits and at any temperature


def head_outputs(outputs: Mapping[str, object]) -> dict[str, Tensor]:
    """Select the floating-point outputs of a model's heads: no loss, hidden states or attentions.

    Args:
        outputs: of a model, by name.
    """
    return {
        name: value
        for name, value in outputs.items()
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and name != "loss"
        and name not in INTERMEDIATE_OUTPUTS
    }


def distributions(outputs: Mapping[str, object], attention_mask: Tensor | None) -> dict[str, Tensor]:
    """Select the logits of a model's heads that are distributions over their last dimension, without padding.

    Args:
        outputs: of a model, by name.
        attention_mask: (batch, positions), 0 where padded; None: no padding.

    Returns:
        Logits (..., n) by name, as ``without_padding`` returns them.

    Raises:
        ValueError: there are none, or one has a single class, as in regression.
    """
    heads = head_outputs(outputs)
    if not heads or min(value.shape[-1] for value in heads.values()) < 2:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in heads.items()) or "none"
        raise ValueError(f"the model's outputs must be logits of at least two classes, got {shapes}")
    if attention_mask is None:
        return heads
    return {name: without_padding(value, attention_mask) for name, value in heads.items()}


def without_padding(logits: Tensor, attention_mask: Tensor) -> Tensor:
    """Remove padded positions from logits.

    Args:
        logits: (batch, positions), each row a distribution over positions; or (batch, positions, n), a distribution at
            each position.
        attention_mask: (batch, positions), 0 where padded.

    Returns:
        For (batch, positions) the same shape, with probability 0 at padded positions; for (batch, positions, n) the
        rows of the real tokens, (tokens, n). Logits of any other shape are returned unchanged.
    """
    if logits.shape == attention_mask.shape:
        return logits.masked_fill(attention_mask == 0, _MASKED_LOGIT)
    if logits.shape[:-1] == attention_mask.shape:
        return logits[attention_mask.bool()]
    return logits


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened distributions, times the squared temperature.

    Hinton et al. 2015, arXiv:1503.02531. The factor T² keeps the gradients at the scale of the task loss. A single
    logit, as in regression, is no distribution: then the loss is the mean squared difference.

    Args:
        student: logits, (..., n); each distribution lies along the last dimension, e.g. over positions.
        teacher: logits of the same shape.
        temperature: T, by which both logits are divided, > 0.

    Returns:
        Scalar, mean over all but the last dimension.
    """
    if student.shape[-1] == 1:
        return (student.float() - teacher.float()).square().mean()
    student = torch.log_softmax(student.float() / temperature, dim=-1)
    teacher = torch.log_softmax(teacher.float() / temperature, dim=-1)
    divergence = torch.nn.functional.kl_div(student, teacher, reduction="sum", log_target=True)
    return divergence * temperature**2 / (student.numel() / student.shape[-1])


def drawn_label_loss(logits: Iterable[Tensor], generator: torch.Generator) -> Tensor:
    """Cross entropy with labels that are drawn from the distributions themselves.

    The covariance of its gradients is the Fisher matrix, that of the gradients for the data's labels the empirical
    Fisher matrix (Kunstner et al. 2019, arXiv:1905.12558). Where the model has memorized the data and gives its labels
    the probability 1 - e, the empirical Fisher matrix falls with e², the Fisher matrix with e.

    Args:
        logits: one tensor (..., n) for each output; each distribution lies along the last dimension.
        generator: of the CPU, so that all devices draw from the same random numbers.

    Returns:
        Scalar, mean over all but the last dimension and over the outputs.
    """
    losses = []
    for rows in (values.float().flatten(end_dim=-2) for values in logits):
        drawn = torch.multinomial(rows.detach().softmax(dim=-1).cpu(), 1, generator=generator).flatten()
        losses.append(torch.nn.functional.cross_entropy(rows, drawn.to(rows.device)))
    return torch.stack(losses).mean()
