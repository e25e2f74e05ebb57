"""Length of an epoch in optimizer steps, and what it follows from. Can a checkpoint's steps be counted on in this run?

A checkpoint says how many steps were made, a recipe speaks of epochs: with another accumulation, batch, number of
processes or data the same step is another moment of the schedule, so a checkpoint remembers what an epoch was.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

EPOCH_FILE = "epoch.json"


@dataclass(frozen=True, kw_only=True)
class EpochLength:
    """What one epoch of a run consists of."""

    steps: int  # of the optimizer
    features: int
    batch_size: int  # of one process
    accumulation: int
    processes: int
    drop_last: bool

    def save(self, checkpoint: Path) -> None:
        """Write it into a checkpoint's folder."""
        (checkpoint / EPOCH_FILE).write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, checkpoint: Path) -> "EpochLength | None":
        """Read it from a checkpoint; None where another program has saved that.

        Raises:
            ValueError: the file is cut short, or holds something else.
        """
        path = checkpoint / EPOCH_FILE
        if not path.is_file():
            return None
        values = json.loads(path.read_text(encoding="utf-8"))
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, dict) or sorted(values) != sorted(names):
            raise ValueError(f"it should hold {', '.join(names)}")
        if not all(isinstance(value, int) for value in values.values()):
            raise ValueError("it should hold integers")
        return cls(**values)


NAMES = {
    "features": "training features",
    "batch_size": "--per_device_train_batch_size",
    "accumulation": "--gradient_accumulation_steps",
    "processes": "processes",
    "drop_last": "--dataloader_drop_last",
}


def what_differs(then: EpochLength, now: EpochLength) -> str | None:
    """Say why an epoch has another number of steps, None where it has the same.

    Args:
        then: the run that saved the checkpoint.
        now: the run that would go on from it.
    """
    if then.steps == now.steps:
        return None
    before, after = dataclasses.asdict(then), dataclasses.asdict(now)
    changes = [f"{name} was {before[key]}, is {after[key]}" for key, name in NAMES.items() if before[key] != after[key]]
    return f"an epoch had {then.steps} optimizer steps, now it has {now.steps} ({'; '.join(changes)})"
