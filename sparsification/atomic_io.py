"""When does what is saved get its name? When it is whole, so that no crash leaves a half of it behind.

Everything is written into a folder of another name beside its place, brought to the disk, and then renamed, which a
file system does at one stroke.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from sparsification.errors import SparsificationError

WINDOWS = os.name == "nt"
SAVING = ".saving"  # what is being written; after a crash what was
EXPORTING = ".export-"  # begins the name of what is being exported; likewise
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
