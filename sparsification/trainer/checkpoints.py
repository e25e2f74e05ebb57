"""Checkpoint folders of a run: listing them, checking that they are complete, and removing old ones."""

import json
import logging
import os
import shutil
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from sparsification.atomic_io import EXPORTING, PARTIAL, SAVING, atomic_remove, atomic_replace
from sparsification.trainer.run_lock import RUN_LOCK

logger = logging.getLogger(__name__)

TRAINED = ".trained"  # checkpoint of the end of training, until the run is over, where no other checkpoint is kept
REPLACED = ".replaced-"  # begins the names of an earlier run's checkpoints, until this run has saved one of its own


def is_leftover(path: Path) -> bool:
    """Whether a killed run has left this file or folder behind, and no run needs it."""
    if path.name in (SAVING, RUN_LOCK) or path.name.startswith(EXPORTING) or path.name.endswith(PARTIAL):
        return True
    return path.is_dir() and [file.name for file in path.iterdir()] == [RUN_LOCK]  # a folder for an export


def set_aside_checkpoints(output_dir: Path) -> None:
    """Rename the checkpoints of an earlier run, so that no run resumes from them or counts them as its own.

    They stay on the disk until ``remove_replaced`` is called.
    """
    for path in checkpoints(output_dir).values():
        aside = output_dir / f"{REPLACED}{path.name}"
        shutil.rmtree(aside, ignore_errors=True)
        atomic_replace(path, aside)


def remove_replaced(output_dir: Path) -> None:
    """Remove what ``set_aside_checkpoints`` has renamed."""
    for path in output_dir.glob(f"{REPLACED}*"):
        shutil.rmtree(path, ignore_errors=True)


def checkpoints(output_dir: Path) -> dict[int, Path]:
    """Find the folders of checkpoints: step -> folder, in ascending order of steps."""
    found = {
        path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-"): path
        for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    }
    steps = {int(step): path for step, path in found.items() if step.isdecimal() and path.is_dir()}
    return dict(sorted(steps.items()))


def remove_old_checkpoints(output_dir: Path, limit: int | None, best: str | None) -> None:
    """Keep ``limit`` checkpoints: the newest, the best one, and the ones before the newest.

    A checkpoint is removed atomically: no reader sees a part of it.
    """
    if limit is None or limit <= 0:
        return
    found = list(checkpoints(output_dir).values())
    others = [path for path in found[:-1] if best is None or path.resolve() != Path(best).resolve()]
    spare = max(limit - (len(found) - len(others)), 0)
    for path in others[: max(len(others) - spare, 0)]:
        atomic_remove(path)


def checkpoint_error(checkpoint: Path) -> str | None:
    """Describe what is missing or truncated in a checkpoint; None if it is complete.

    Checkpoints of this package are complete because they are written atomically. The check is for those that were
    copied, or written by other programs.
    """
    if not checkpoint.is_dir():
        return "no such folder"
    try:
        json.loads((checkpoint / "trainer_state.json").read_bytes())
        weights = list(checkpoint.glob("*.safetensors"))
        for path in weights:
            with safe_open(path, "pt"):  # checks the file's length against its header
                pass
    except FileNotFoundError as error:
        return f"there is no {Path(error.filename).name}"
    except (OSError, ValueError, SafetensorError) as error:
        return str(error)
    if not any(checkpoint.glob("model*.safetensors")) and not any(checkpoint.glob("pytorch_model*.bin")):
        return "there are no weights"
    for path in (*checkpoint.glob("*.pt"), *checkpoint.glob("*.pth")):
        if not zipfile.is_zipfile(path):  # the directory of a zip file is at its end
            return f"{path.name} is cut short"
    return None


def last_complete_checkpoint(output_dir: Path) -> str | None:
    """Find the newest checkpoint that is complete; None if there is none."""
    for path in (output_dir / TRAINED, *reversed(checkpoints(output_dir).values())):
        if path.name == TRAINED and not path.is_dir():
            continue
        flaw = checkpoint_error(path)
        if flaw is None:
            return os.fspath(path)
        logger.warning(f"{path} is not complete and is skipped: {flaw}")
    return None
