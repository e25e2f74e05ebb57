"""What of SparseML's logging does a recipe still ask for?"""

from dataclasses import dataclass

from sparsification.base import Modifier


@dataclass(kw_only=True)
class SparsificationLoggingModifier(Modifier):
    """Accepted for SparseML's sake, without effect: what it asks for is logged anyway.

    Each line of Trainer's log, and so each dashboard, has the series of all modifiers: sparsity and its target, what is
    quantized, the parts of the loss, the learning rate. ``--logging_steps`` says how often.
    """

    update_frequency: float = 1.0  # SparseML's epochs between summaries
