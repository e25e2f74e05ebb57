"""When does what is saved get its name? When it is whole, so that no crash leaves a half of it behind.

Everything is written into a folder of another name beside its place, brought to the disk, and then renamed, which a
file system does at one stroke.
"""

import contextlib
import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from sparsification.errors import SparsificationError
from sparsification.run_lock import RUN_LOCK

WINDOWS = os.name == "nt"
SAVING = ".saving"  # what is being written; after a crash what was
EXPORTING = ".export-"  # begins the name of what is being exported; likewise
TRAINED = ".trained"  # the end of training as a checkpoint, until the run is over, where no other checkpoint is kept
# What torch.save's RuntimeError says when the disk is full or a write fails; it names neither file nor reason.
TORCH_WRITER = ("PytorchStreamWriter", "inline_container.cc", "iostream error")


class SavingError(SparsificationError):
    """Something could not be written: the disk is full, or the folder not ours to write to."""


@contextlib.contextmanager
def explaining_faults(folder: Path, what: str) -> Iterator[None]:
    """Let an error while something is written say what could not be saved, where and why.

    Raises:
        SavingError: ``what`` cannot be written to ``folder``.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        if isinstance(error, RuntimeError):
            if not any(word in reason for word in TORCH_WRITER):
                raise
            reason = f"a file could not be written to its end ({_free_space(folder)})"
        raise SavingError(
            f"{what} could not be saved in {folder}: {reason}. What was saved before stays as it is"
        ) from error


def _free_space(folder: Path) -> str:
    """Say how full the disk of a folder is, which torch's own words leave out."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path())
    return f"{shutil.disk_usage(there).free / 1e6:.0f} MB are free on its disk"


@contextlib.contextmanager
def scratch_of(folder: Path, what: str) -> Iterator[Path]:
    """Give an empty folder in ``folder`` to write into; it is gone afterwards.

    Raises:
        SavingError: what is written there cannot be.
    """
    scratch = folder / SAVING
    try:
        with explaining_faults(folder, what):
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def written_whole(folder: Path, what: str) -> Iterator[Path]:
    """Give a folder to write into; at the end its files move to ``folder``, each at one stroke.

    Raises:
        SavingError: they cannot be written.
    """
    with scratch_of(folder, what) as scratch:
        yield scratch
        sync(scratch)
        for path in sorted(scratch.iterdir()):
            os.replace(path, folder / path.name)


def move_whole(source: Path, target: Path) -> None:
    """Give a folder its final name, in place of what may lie there."""
    sync(source)
    if target.exists():  # of a run that was interrupted, or overwritten
        os.replace(target, source.with_name("replaced"))
    os.replace(source, target)
    _sync(target.parent)


def sync(folder: Path) -> None:
    """Bring the files of a folder to the disk: after a power cut there is no name without its content."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    if WINDOWS and path.is_dir():  # cannot be opened there
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)  # Windows flushes what is open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_leftover(path: Path) -> bool:
    """Whether a killed run has left that behind, which is of no use to anybody."""
    return path.name in (SAVING, RUN_LOCK) or path.name.startswith(EXPORTING)


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
        gone = output_dir / SAVING
        shutil.rmtree(gone, ignore_errors=True)
        os.replace(path, gone)
        shutil.rmtree(gone, ignore_errors=True)


def flaw_of(checkpoint: Path) -> str | None:
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
