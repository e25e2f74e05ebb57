"""Atomic writes of files and folders.

Everything is written under a temporary name in the same file system, synced to the disk, and renamed, which is one step
for the file system. After a crash or power failure a name has its old content or the new one, never a part of it.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from sparsification.errors import SparsificationError

WINDOWS = os.name == "nt"
SAVING = ".saving"  # folder of unfinished writes; may remain after a crash
EXPORTING = ".export-"  # prefix of an unfinished export; may remain after a crash
PARTIAL = ".partial"  # suffix of an unfinished file; may remain after a crash
# In the messages of torch.save's RuntimeError after a failed write, which name neither file nor reason.
TORCH_WRITER = ("PytorchStreamWriter", "inline_container.cc", "iostream error")


class SavingError(SparsificationError):
    """A file or folder cannot be written, for example because the disk is full or permission is missing."""


@contextlib.contextmanager
def explaining_faults(folder: Path, what: str) -> Iterator[None]:
    """Convert errors of writing into ones that state what could not be saved, where and why.

    Args:
        folder: the destination.
        what: is written, for the message.

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
            reason = f"a file could not be written completely ({free_bytes(folder) / 1e6:.0f} MB are free on its disk)"
        raise SavingError(f"{what} could not be saved in {folder}: {reason}. Earlier saves are unchanged") from error


def free_bytes(folder: Path) -> int:
    """Free space on the disk of a folder, which need not exist."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.is_dir()), Path())
    return shutil.disk_usage(there).free


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path to write to. It is renamed to ``path`` at the end, or removed after an error.

    Several processes may write the same file; the last one to finish determines the content.
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
    """Write a text file in UTF-8, atomically."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def staging_dir(folder: Path, what: str) -> Iterator[Path]:
    """Yield an empty temporary folder inside ``folder``, which is removed afterwards.

    Args:
        folder: created if it does not exist.
        what: is written, for the message.

    Raises:
        SavingError: a file cannot be written.
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
    """Yield a temporary folder, whose files are moved to ``folder`` at the end, each atomically.

    Args:
        folder: created if it does not exist.
        what: is written, for the message.

    Raises:
        SavingError: a file cannot be written.
    """
    with staging_dir(folder, what) as staging:
        yield staging
        move_files(staging, folder)


def move_files(source: Path, folder: Path, last: str | None = None) -> None:
    """Move all files of a folder to another one in the same file system, the file named ``last`` after all others."""
    sync(source)
    for path in sorted(source.iterdir(), key=lambda path: (path.name == last, path.name)):
        os.replace(path, folder / path.name)
    _sync(folder)


def atomic_replace(source: Path, target: Path) -> None:
    """Rename a file or folder to its final name, replacing what has this name."""
    sync(source)
    if target.is_dir():  # of an interrupted run, or one to be overwritten
        os.replace(target, source.with_name("replaced"))
    os.replace(source, target)
    _sync(target.parent)


def atomic_remove(folder: Path) -> None:
    """Remove a folder atomically: it never has a part of its files under its name."""
    gone = folder.with_name(SAVING)
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(folder, gone)
    shutil.rmtree(gone, ignore_errors=True)


def sync(folder: Path) -> None:
    """Flush a file, or a folder and its files, to the disk, so that no renamed file is empty after a power failure."""
    for path in folder.rglob("*"):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    if WINDOWS and path.is_dir():  # Windows cannot open folders
        return
    descriptor = os.open(path, os.O_RDWR if WINDOWS else os.O_RDONLY)  # Windows flushes files open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
