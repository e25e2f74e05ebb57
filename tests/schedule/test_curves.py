"""Curves of sparsity and learning rate against their closed forms."""

import math

import pytest

from sparsification.schedule import curves


def test_progress_is_the_share_of_the_window_that_has_passed():
    times = (0.0, 1.0, 2.0, 3.0, 4.0)
    assert [curves.progress(time, 1.0, 3.0) for time in times] == [0.0, 0.0, 0.5, 1.0, 1.0]
    assert curves.progress(1.0, 1.0, 1.0) == 1.0  # an empty window has passed


@pytest.mark.parametrize(("curve", "half"), [("linear", 0.5), ("cubic", 0.875), ("inverse_cubic", 1 - 0.5 ** (1 / 3))])
def test_sparsity_runs_from_init_to_final(curve, half):
    assert [curves.sparsity_at(x, 0.1, 0.9, curve) for x in (0.0, 0.5, 1.0)] == pytest.approx(
        [0.1, 0.1 + 0.8 * half, 0.9]
    )


def test_learning_rates_run_from_init_to_final():
    assert [curves.linear_lr(x, 0.4, 0.2) for x in (0.0, 0.25, 1.0)] == pytest.approx([0.4, 0.35, 0.2])
    cosine = [curves.cosine_lr(x, 0.4, 0.2) for x in (0.0, 1 / 3, 0.5, 1.0)]
    assert cosine == pytest.approx([0.4, 0.2 + 0.2 * (1 + math.cos(math.pi / 3)) / 2, 0.3, 0.2])
    assert [curves.cyclic_linear_lr(step, 3, 0.3, 0.1) for step in range(4)] == pytest.approx([0.3, 0.2, 0.1, 0.3])
    assert [curves.cyclic_linear_lr(step, 1, 0.3, 0.1) for step in range(2)] == [0.3, 0.3]


def test_decay_multiplies_and_stays_a_number():
    assert curves.decayed_lr(0.5, 0.1, 3) == pytest.approx(0.5e-3)
    assert math.isfinite(curves.decayed_lr(1.0, 10.0, 10**6)) and curves.decayed_lr(1.0, 0.1, 10**6) == 0.0


def test_cycles_of_equal_and_of_growing_length_restart():
    assert [curves.restarted(epochs, 2.0, 1) for epochs in (0.0, 1.0, 2.0, 5.0)] == [0.0, 0.5, 0.0, 0.5]
    # Cycles of 1, 2 and 4 epochs begin at 0, 1 and 3.
    assert [curves.restarted(epochs, 1.0, 2) for epochs in (0.5, 1.0, 2.0, 3.0, 6.0)] == [0.5, 0.0, 0.5, 0.0, 0.75]
    assert curves.restarted(2.3 - 0.3, 1.0, 1) == 0.0  # 1.9999999999999998
