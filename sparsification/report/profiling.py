"""Size and speed of a model, measured within a few seconds."""

import contextlib
import gzip
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

SECONDS = 1.0  # of measuring, for each model and batch size
MAX_RUNS = 20
BATCH = 4  # features, for the throughput
_LEVEL = 6  # default of the gzip program
_PIECE = 2**20  # bytes
_PIECES = 16


def seconds_per_run(run: Callable[[], object]) -> float:
    """Median time of a call in seconds, of up to 20 calls within about one second.

    The first call warms up and does not count, unless it takes more than a second.
    """
    taken: list[float] = []
    while sum(taken) < SECONDS and len(taken) <= MAX_RUNS:
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:] or taken)


def speed(model: Callable[[Mapping[str, Tensor]], object], batch: Mapping[str, Tensor]) -> tuple[float, float]:
    """Measure latency and throughput of a model.

    Args:
        model: takes tensors by name.
        batch: up to ``BATCH`` features, tensors of shape (features, tokens).

    Returns:
        Latency of one feature in milliseconds, and throughput of the batch in features per second.
    """
    one = {name: tensor[:1] for name, tensor in batch.items()}
    size = len(next(iter(batch.values())))
    return 1000 * seconds_per_run(lambda: model(one)), size / seconds_per_run(lambda: model(batch))


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def gzipped_size(path: Path) -> int:
    """Size of a file after gzip, in bytes.

    Of a file larger than 16 MiB, 16 pieces of 1 MiB are compressed, evenly spaced over the file, and the result is
    scaled up.
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
