"""SparseML's logging modifier, accepted without effect."""

from dataclasses import dataclass

from sparsification.base import Modifier


@dataclass(kw_only=True)
class SparsificationLoggingModifier(Modifier):
    """Accepted for compatibility with SparseML, without effect: all of its series are logged anyway.

    Each line of Trainer's log, and each dashboard, contains the series of all modifiers: sparsity and target sparsity,
    quantization, the terms of the loss, the learning rate. ``--logging_steps`` sets the interval.
    """

    update_frequency: float = 1.0  # no effect; epochs between SparseML's summaries
