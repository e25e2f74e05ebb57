"""Lock on an output folder. Is another run writing here?

Two runs in one folder would replace each other's checkpoints. The operating system holds the lock as long as the
process lives, so that no kill leaves one behind; the file says who has it, and is gone when a run has ended. A file
that is left over names the command that did not end here: that one may use the folder again.
"""

import contextlib
import errno
import json
import logging
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

from sparsification.errors import SparsificationError, printable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

RUN_LOCK = "_run.lock"  # Trainer pushes no file to the hub that begins so
_FAR = 2**30  # Windows lets nobody read what is locked: a byte behind the text
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class RunLockError(SparsificationError):
    """Another run has the folder."""


class RunLock:
    """A folder that is held: who has it, and which run was not finished there.

    Args:
        descriptor: the locked file.
        command: identifies what this run does, e.g. a hash of its arguments.
    """

    def __init__(self, descriptor: int, command: str):
        self._descriptor = descriptor
        self._command = command
        self._unfinished = _read(descriptor).get("command")
        self._write()

    @property
    def was_interrupted(self) -> bool:
        """Whether the last run here did the same and did not end."""
        return self._unfinished == self._command

    @property
    def names_unfinished(self) -> bool:
        """Whether there is an unfinished run, this one included, that the file should go on naming."""
        return self._unfinished is not None

    def begin(self) -> None:
        """From now on the folder is this run's: it has not been refused."""
        self._unfinished = self._command
        self._write()

    def _write(self) -> None:
        holder = {"process": os.getpid(), "machine": platform.node(), "command": self._unfinished}
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, json.dumps(holder).encode())


@contextlib.contextmanager
def locked(folder: Path, command: str) -> Iterator[RunLock]:
    """Hold a folder for one run; it is made if missing, and goes again if an error leaves it empty.

    Args:
        folder: where the run writes.
        command: see ``RunLock``.

    Raises:
        RunLockError: another process has the folder.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RUN_LOCK
    descriptor = _open_locked(path)
    lock = RunLock(descriptor, command)
    is_over = False
    try:
        yield lock
        is_over = True
    finally:
        empty = folder.is_dir() and all(file.name == RUN_LOCK for file in folder.iterdir())
        if is_over or empty or not lock.names_unfinished:
            _release(path, descriptor)
        else:
            os.close(descriptor)
        if is_new and empty:
            with contextlib.suppress(OSError):  # another run may have it by now
                folder.rmdir()


def _release(path: Path, descriptor: int) -> None:
    """Remove the file while it is locked, but on Windows, which removes nothing that is open."""
    if sys.platform != "win32":
        path.unlink(missing_ok=True)
        os.close(descriptor)
        return
    os.close(descriptor)
    with contextlib.suppress(OSError):  # another run may have it by now
        path.unlink(missing_ok=True)


def _open_locked(path: Path) -> int:
    """Open the file and lock it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor)
        except OSError as error:
            holder = _read(descriptor)
            os.close(descriptor)
            if error.errno not in _TAKEN:
                raise
            who = f"process {holder.get('process', '?')} on {holder.get('machine', '?')}"
            raise RunLockError(
                f"--output_dir {path.parent} is in use by another run ({printable(who)}): wait for its end, or name "
                "another folder"
            ) from error
        # The run before may have ended, and removed the file, between opening and locking.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Lock an open file for this process alone: child processes, which may outlive it, do not inherit the lock."""
    if sys.platform == "win32":
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
        return
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        logger.warning("This file system has no locks: do not start a second run in the same --output_dir")


def _read(descriptor: int) -> dict[str, object]:
    """What a run has written into the file, as far as it has.

    Through the descriptor that is open already: to close another one would give the lock away.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        values = json.loads(os.read(descriptor, 2000))
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
