"""Checkpoint folders of a run: which there are, which are complete, which may go."""

import json
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from sparsification.atomic_io import EXPORTING, PARTIAL, SAVING, atomic_remove
from sparsification.trainer.run_lock import RUN_LOCK

TRAINED = ".trained"  # the end of training as a checkpoint, until the run is over, where no other checkpoint is kept


def is_leftover(path: Path) -> bool:
    """Whether a killed run has left that behind, which is of no use to anybody."""
    return path.name in (SAVING, RUN_LOCK) or path.name.startswith(EXPORTING) or path.name.endswith(PARTIAL)


def checkpoints(output_dir: Path) -> dict[int, Path]:
    """The folders of checkpoints by step, ascending."""
    found = {
        path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"): path
        for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    }
    steps = {int(step): path for step, path in found.items() if step.isdecimal() and path.is_dir()}
    return dict(sorted(steps.items()))


def remove_old_checkpoints(output_dir: Path, limit: int | None, best: str | None) -> None:
    """Keep ``limit`` checkpoints: the newest, the best one, and those before; none is ever seen half removed."""
    if limit is None or limit <= 0:
        return
    found = list(checkpoints(output_dir).values())
    others = [path for path in found[:-1] if best is None or path.resolve() != Path(best).resolve()]
    spare = max(limit - (len(found) - len(others)), 0)
    for path in others[: max(len(others) - spare, 0)]:
        atomic_remove(path)


def checkpoint_error(checkpoint: Path) -> str | None:
    """Say what is missing or cut short in a checkpoint, None where it is whole.

    Ours are whole by the way they are written; this is for those that were copied, or written by others.
    """
    if not checkpoint.is_dir():
        return "no such folder"
    try:
        json.loads((checkpoint / "trainer_state.json").read_bytes())
        weights = list(checkpoint.glob("*.safetensors"))
        for path in weights:
            with safe_open(path, "pt"):  # checks that the file is as long as its header says
                pass
    except FileNotFoundError as error:
        return f"there is no {Path(error.filename).name}"
    except (OSError, ValueError, SafetensorError) as error:
        return str(error)
    if not any(checkpoint.glob("model*.safetensors")) and not any(checkpoint.glob("pytorch_model*.bin")):
        return "there are no weights"
    for path in (*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")):
        if not zipfile.is_zipfile(path):  # its directory stands at its end
            return f"{path.name} is cut short"
    return None
