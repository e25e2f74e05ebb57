"""Atomic writes: a file or folder gets its name when all of it is on the disk, or keeps what it had.

Everything is written under another name beside its place, synced, and then renamed, which a file system does in one
step. A crash or a power cut leaves the old content or the new one, never a part.
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
PARTIAL = ".partial"  # ends the name of a single file that is being written; likewise
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
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give the path of a file to write, which becomes ``path`` at the end, and is removed after an error.

    Several processes may write one file at a time: the last one to end wins.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def staging_dir(folder: Path, what: str) -> Iterator[Path]:
    """Give an empty folder in ``folder`` to write into; it is gone afterwards.

    Raises:
        SavingError: what is written there cannot be.
    """
    staging = folder / SAVING
    try:
        with explaining_faults(folder, what):
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir(parents=True)
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def atomic_write_dir(folder: Path, what: str) -> Iterator[Path]:
    """Give a folder to write into; at the end its files move to ``folder``, each in one step.

    Raises:
        SavingError: they cannot be written.
    """
    with staging_dir(folder, what) as staging:
        yield staging
        move_files(staging, folder)


def move_files(source: Path, folder: Path, last: str | None = None) -> None:
    """Give the files of a folder their names in another one of the same disk, one of them after all others."""
    sync(source)
    for path in sorted(source.iterdir(), key=lambda path: (path.name == last, path.name)):
        os.replace(path, folder / path.name)
    _sync(folder)


def atomic_replace(source: Path, target: Path) -> None:
    """Give a file or folder its final name, in place of what may lie there."""
    sync(source)
    if target.is_dir():  # of a run that was interrupted, or overwritten
        os.replace(target, source.with_name("replaced"))
    os.replace(source, target)
    _sync(target.parent)


def atomic_remove(folder: Path) -> None:
    """Remove a folder; it is never seen with a part of its files."""
    gone = folder.with_name(SAVING)
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def sync(folder: Path) -> None:
    """Bring a file, or a folder and its files, to the disk: after a power cut there is no name without its content."""
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
