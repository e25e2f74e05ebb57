"""Is the loss of every task scaled as Trainer scales it, accumulated or not, and with a teacher's part in it?"""

import pytest

from helpers import ROOT, plain_and_empty
from helpers.plain_and_empty import EMPTY, TASKS, assert_equal_runs, assert_mixed_loss_has_its_scale
from helpers.processes import run_script


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("task", TASKS)
def test_an_empty_recipe_is_the_plain_trainer_bit_for_bit(tmp_path, task, accumulation):
    assert_equal_runs(tmp_path, task, accumulation, [None, EMPTY])


def test_both_hold_on_two_processes(tmp_path):
    done = run_script([plain_and_empty.__file__, tmp_path], ROOT, processes=2)
    for status, printed in done:
        assert status == 0, printed[-5000:]
        assert [printed.count(f"equal: {task} {batches} 2") for task in TASKS for batches in (1, 4)] == [1] * 10


@pytest.mark.parametrize("accumulation", [1, 4, 8])
@pytest.mark.parametrize("task", TASKS)
def test_mixed_loss_of_accumulated_batches_is_that_of_their_rows_at_once(tmp_path, task, accumulation):
    assert_mixed_loss_has_its_scale(tmp_path, task, accumulation, processes=1)
