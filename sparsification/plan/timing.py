"""Times of functions that take turns, so that what else the machine does hits all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence


def take_turns(runs: Sequence[Callable[[], object]], rounds: int, seconds: float, threads: int = 1) -> list[float]:
    """Measure the median time of each function, in milliseconds; see ``all_times``."""
    return [statistics.median(times) for times in all_times(runs, rounds, seconds, threads)]


def all_times(runs: Sequence[Callable[[], object]], rounds: int, seconds: float, threads: int = 1) -> list[list[float]]:
    """Measure the times of functions.

    Args:
        runs: the functions.
        rounds: how often each has its turn.
        seconds: of a turn; it begins with a run that is not counted.
        threads: that a function computes on. On one it is the processor time of this process that counts, so that other
            processes do not; on several it is the wall-clock time.

    Returns:
        Milliseconds of each run of each function.
    """
    clock = time.process_time if threads == 1 else time.perf_counter
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(rounds):
        for run, mine in zip(runs, times, strict=True):
            run()
            end = time.perf_counter() + seconds
            while True:
                start = clock()
                run()
                mine.append(1000 * (clock() - start))
                if time.perf_counter() >= end:
                    break
    return times


def variation(times: Sequence[float]) -> float:
    """How much longer a function took in its slow runs than in its fast ones: the ninth decile over the first, - 1."""
    first, *_, ninth = statistics.quantiles(times, n=10, method="inclusive")
    return ninth / first - 1.0
