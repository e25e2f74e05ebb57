"""How large and how fast is a model, as far as a few seconds can tell?"""

import contextlib
import gzip
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

SECONDS = 1.0  # for each model and batch
MAX_RUNS = 20
BATCH = 4  # features, for the throughput
_LEVEL = 6  # that of the program gzip
_PIECE = 2**20  # bytes
_PIECES = 16


def seconds_per_run(run: Callable[[], object]) -> float:
    """Median time of a call: of up to 20, for about a second; the first one warms up, unless it takes that long."""
    taken: list[float] = []
    while sum(taken) < SECONDS and len(taken) <= MAX_RUNS:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:] or taken)


def speed(model: Callable[[Mapping[str, Tensor]], object], batch: Mapping[str, Tensor]) -> tuple[float, float]:
    """Measure a model on real features.

    Args:
        model: takes tensors by name.
        batch: up to ``BATCH`` features, all of the same padded length.

    Returns:
        Milliseconds for one feature alone, features a second in batches.
    """
    one = {name: tensor[:1] for name, tensor in batch.items()}
    size = len(next(iter(batch.values())))
    return 1000 * seconds_per_run(lambda: model(one)), size / seconds_per_run(lambda: model(batch))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def gzipped_size(path: Path) -> int:
    """Size of a file after gzip, in bytes: of all of it up to 16 MiB, else scaled up from as much of it.

    The samples are pieces of 1 MiB, evenly spaced over the file.
    """
    size = path.stat().st_size
    if size <= _PIECE * _PIECES:
        return len(gzip.compress(path.read_bytes(), _LEVEL))
    with path.open("rb") as file:
        packed = 0
        for index in range(_PIECES):
            file.seek(index * (size - _PIECE) // (_PIECES - 1))
            packed += len(gzip.compress(file.read(_PIECE), _LEVEL))
    return round(packed * size / (_PIECE * _PIECES))
