"""Times of functions that take turns."""

import itertools
import time

import pytest

from sparsification.plan.timing import take_turns, variation


def test_slower_function_has_the_longer_time_and_each_runs_in_every_round():
    calls = []

    def busy(name: str, milliseconds: float) -> None:
        calls.append(name)
        end = time.process_time() + milliseconds / 1000
        while time.process_time() < end:
            pass

    slow, fast = take_turns([lambda: busy("slow", 8.0), lambda: busy("fast", 1.0)], rounds=2, seconds=0.0)
    assert slow > 7.9 and fast > 0.9 and slow > 2 * fast
    turns = [(name, len(list(those))) for name, those in itertools.groupby(calls)]
    assert [name for name, _ in turns] == ["slow", "fast"] * 2
    assert min(count for _, count in turns) >= 2  # the first run of a turn is not counted


def test_waiting_counts_on_several_threads_only():
    (processor,), (wall,) = (take_turns([lambda: time.sleep(0.02)], 1, 0.0, threads) for threads in (1, 2))
    assert processor < 15 < 19 < wall


def test_variation_is_that_of_the_deciles():
    assert variation([2.0] * 30) == 0.0
    assert variation([2.0] * 20 + [3.0] * 10) == pytest.approx(0.5)
    assert variation([2.0] * 99 + [50.0]) == 0.0  # a single pause of the process
