"""Length of an epoch in optimizer steps, saved in checkpoints and compared when a run resumes.

A checkpoint counts steps, a recipe counts epochs. With another gradient accumulation, batch size, number of processes
or data set the same step is at another place of the schedule, so each checkpoint saves what an epoch consists of.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

EPOCH_FILE = "epoch.json"


@dataclass(frozen=True, kw_only=True)
class EpochLength:
    """Number of optimizer steps in an epoch, and the settings that determine it."""

    steps: int  # of the optimizer
    features: int
    batch_size: int  # of one process
    accumulation: int
    processes: int
    drop_last: bool

    def save(self, checkpoint: Path) -> None:
        """Write it to a checkpoint's folder."""
        (checkpoint / EPOCH_FILE).write_text(json.dumps(dataclasses.asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, checkpoint: Path) -> "EpochLength | None":
        """Read it from a checkpoint; None if another program saved the checkpoint.

        Raises:
            ValueError: the file is truncated, or holds something else.
        """
        path = checkpoint / EPOCH_FILE
        if not path.is_file():
            return None
        values = json.loads(path.read_text(encoding="utf-8"))
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(values, dict) or sorted(values) != sorted(names):
            raise ValueError(f"must hold the keys {', '.join(names)}")
        if not all(isinstance(value, int) for value in values.values()):
            raise ValueError("must hold integers")
        return cls(**values)


NAMES = {
    "features": "training features",
    "batch_size": "--per_device_train_batch_size",
    "accumulation": "--gradient_accumulation_steps",
    "processes": "processes",
    "drop_last": "--dataloader_drop_last",
}


def what_differs(then: EpochLength, now: EpochLength) -> str | None:
    """Explain why an epoch has another number of steps; None if it has the same.

    Args:
        then: epoch of the run that saved the checkpoint.
        now: epoch of the run that resumes.
    """
    if then.steps == now.steps:
        return None
    before, after = dataclasses.asdict(then), dataclasses.asdict(now)
    changes = [f"{name} was {before[key]}, is {after[key]}" for key, name in NAMES.items() if before[key] != after[key]]
    return f"an epoch had {then.steps} optimizer steps, now it has {now.steps} ({'; '.join(changes)})"
