"""Functions and scripts in processes of their own, forked from a server that has imported everything.

``python run_qa.py`` imports for five seconds of processor time; a process of this server starts within milliseconds.
Tests of the start itself, and of what a command imports, use ``subprocess``.
"""

import functools
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from unittest import mock

from helpers import ROOT

SECONDS = 600  # then a process that hangs is killed


@functools.cache
def server() -> ForkServerContext:
    """Start the server, on one thread, once in a test run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["helpers.preloaded"])
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    with mock.patch.dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS="1"):
        forkserver.ensure_running()
    return context


def run(target: Callable[..., object], *arguments: object, folder: Path, processes: int = 1) -> list[tuple[int, str]]:
    """Call ``target`` in a new process, or in several as ``torchrun --nproc_per_node`` does.

    The environment is the server's, with what torchrun adds.

    Returns:
        Of each process its exit status, negative where a signal ended it, and what it printed.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(processes)}
    with tempfile.TemporaryDirectory() as logs:
        started = []
        for rank in range(processes):
            environment = group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            log = Path(logs) / str(rank)
            process = server().Process(target=_child, args=(target, arguments, folder, log, environment))
            process.start()
            started.append((process, log))
        ends = []
        for process, log in started:
            process.join(SECONDS)
            process.kill()
            process.join()
            ends.append((process.exitcode, log.read_text()))
        return ends


def run_script(argv: Sequence[object], folder: Path, processes: int = 1) -> list[tuple[int, str]]:
    """Run a script with its arguments, as :func:`run` calls a function."""
    return run(_script, [str(argument) for argument in argv], folder=folder, processes=processes)


def _child(target: Callable[..., object], arguments: tuple, folder: Path, log: Path, environment: dict) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    target(*arguments)


def _script(argv: list[str]) -> None:
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")
