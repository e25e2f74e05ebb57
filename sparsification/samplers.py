"""Types of the functions that give modifiers training data of their own.

What they draw is a function of the moment, which is an optimizer step and a number within it, and of the seed of the
run: all processes draw the same, and a resumed run draws the same again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

# What the loss compares the outputs with: the labels of the data, labels drawn from the model's own distributions, or
# the teacher's distributions.
Labels = Literal["data", "model", "teacher"]

# (parameters, count, batch size or None for the run's own, moment, labels) -> gradients of the loss on ``count``
# batches, one batch at a time.
GradientSampler = Callable[
    [Sequence[nn.Parameter], int, int | None, tuple[int, int], Labels], Iterator[Sequence[Tensor]]
]

# (count, batch size, moment) -> ``count`` examples without labels, or all that there are, in batches that are arguments
# of ``forward``.
CalibrationSampler = Callable[[int, int, tuple[int, int]], Sequence[Mapping[str, Tensor]]]


@dataclass(frozen=True)
class SampledGradients:
    """The gradients that are sampled for one mask, and their cost."""

    num_batches: int
    batch_size: int | None  # examples; None: that of training
    labels: Labels
    num_bytes: int  # memory beside the model
