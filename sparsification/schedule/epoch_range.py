"""Length of the run."""

from dataclasses import dataclass

from sparsification.base import Modifier


@dataclass(kw_only=True)
class EpochRangeModifier(Modifier):
    """Set the length of the run to ``end_epoch``; the longest range of a recipe overrides --num_train_epochs."""

    start_epoch: float = 0.0
    end_epoch: float

    @property
    def run_length(self) -> float:
        return max(self.end_epoch, 0.0)
