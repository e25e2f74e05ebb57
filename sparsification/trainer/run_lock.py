"""Lock on a folder that a run writes to.

Two runs in one folder would replace each other's files. The operating system holds the lock while the process lives,
so a killed run leaves no lock behind. The lock file names its holder and is removed when the run ends. A file that is
left over names the command that did not end: the same command may use the folder again.
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

RUN_LOCK = "_run.lock"  # Trainer does not push files to the hub whose names begin with an underscore
_FAR = 2**30  # on Windows locked bytes cannot be read: lock one behind the text
_TAKEN = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class RunLockError(SparsificationError):
    """Another run holds the folder."""


class RunLock:
    """Lock of a folder: its holder, and the last run that did not end there.

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
        """Whether the last run here had the same command and did not end."""
        return self._unfinished == self._command

    @property
    def names_unfinished(self) -> bool:
        """Whether the file names an unfinished run, which may be this one."""
        return self._unfinished is not None

    def begin(self) -> None:
        """Name this run in the file: the folder was not refused, and the run writes to it from now on."""
        self._unfinished = self._command
        self._write()

    def _write(self) -> None:
        holder = {"process": os.getpid(), "machine": platform.node(), "command": self._unfinished}
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.ftruncate(self._descriptor, 0)
        os.write(self._descriptor, json.dumps(holder).encode())


@contextlib.contextmanager
def locked(folder: Path, command: str, flag: str = "--output_dir") -> Iterator[RunLock]:
    """Lock a folder for one run. It is created if missing, and removed again if an error leaves it empty.

    Args:
        folder: folder that the run writes to.
        command: see ``RunLock``.
        flag: flag that names the folder, for messages.

    Raises:
        RunLockError: another process holds the folder.
    """
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / RUN_LOCK
    descriptor = _open_locked(path, flag)
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
            with contextlib.suppress(OSError):  # another run may hold it by now
                folder.rmdir()


def _release(path: Path, descriptor: int) -> None:
    """Remove the file while it is locked; on Windows after closing it, because open files cannot be removed there."""
    if sys.platform != "win32":
        path.unlink(missing_ok=True)
        os.close(descriptor)
        return
    os.close(descriptor)
    with contextlib.suppress(OSError):  # another run may hold it by now
        path.unlink(missing_ok=True)


def _open_locked(path: Path, flag: str) -> int:
    """Open a file, lock it, and return its descriptor."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor, flag)
        except OSError as error:
            holder = _read(descriptor)
            os.close(descriptor)
            if error.errno not in _TAKEN:
                raise
            who = f"process {holder.get('process', '?')} on {holder.get('machine', '?')}"
            raise RunLockError(
                f"{flag} {path.parent} is in use by another run ({printable(who)}): wait until it ends, or name "
                "another folder"
            ) from error
        # The run before may have ended, and removed the file, between opening and locking.
        if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
        os.close(descriptor)


def _lock(descriptor: int, flag: str) -> None:
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
        logger.warning(f"This file system has no locks: do not start a second run with the same {flag}")


def _read(descriptor: int) -> dict[str, object]:
    """Read what a run has written into the file so far.

    Reads through the open descriptor: closing a second one of the same file would release the lock.
    """
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        values = json.loads(os.read(descriptor, 2000))
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}
