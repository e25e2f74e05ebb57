"""Is the loss of every task scaled as Trainer scales it, accumulated or not, and with a teacher's part in it?"""

import os
import subprocess
import sys

import pytest

from helpers import ROOT, plain_and_empty
from helpers.plain_and_empty import EMPTY, TASKS, assert_equal_runs, assert_mixed_loss_has_its_scale


@pytest.mark.parametrize("recipe", [None, EMPTY])
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("task", TASKS)
def test_an_empty_recipe_is_the_plain_trainer_bit_for_bit(tmp_path, task, accumulation, recipe):
    assert_equal_runs(tmp_path, task, accumulation, recipe)


def test_both_hold_on_two_processes(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, plain_and_empty.__file__, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    assert [done.stdout.count(f"equal: {task} {batches} 2") for task in TASKS for batches in (1, 4)] == [2] * 10


@pytest.mark.parametrize("accumulation", [1, 4, 8])
@pytest.mark.parametrize("task", TASKS)
def test_mixed_loss_of_accumulated_batches_is_that_of_their_rows_at_once(tmp_path, task, accumulation):
    assert_mixed_loss_has_its_scale(tmp_path, task, accumulation, processes=1)
