"""Types of the functions that give modifiers training data of their own.

What they draw is a function of the moment, which is an optimizer step and a number within it, and of the seed of the
run: all processes draw the same, and a resumed run draws the same again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn

# (parameters, count, batch size or None for the run's own, moment) -> gradients of the task loss on ``count`` batches,
# one batch at a time.
GradientSampler = Callable[[Sequence[nn.Parameter], int, int | None, tuple[int, int]], Iterator[Sequence[Tensor]]]

# (count, batch size, moment) -> ``count`` examples without labels, or all that there are, in batches that are arguments
# of ``forward``.
CalibrationSampler = Callable[[int, int, tuple[int, int]], Sequence[Mapping[str, Tensor]]]
