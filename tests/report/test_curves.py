"""Points of a run's curves."""

from sparsification.report.curves import MAX_POINTS, curve


def test_curve_of_many_points_is_thinned_out_but_ends_where_it_ends():
    history = [{"epoch": step / 100, "loss": float(step)} for step in range(10 * MAX_POINTS + 3)]
    points = curve(history, "loss")
    assert len(points) <= MAX_POINTS + 1
    assert (points[0][1], points[-1][1]) == (0.0, 10 * MAX_POINTS + 2)
