"""Tables of shapes."""

import pytest

from helpers.shapes import make_costs, make_losses
from sparsification.plan.planner import MILLISECONDS, Target
from sparsification.plan.report import summary
from sparsification.plan.shape.planner import make_plan
from sparsification.plan.shape.report import reasons, table


def test_lines_of_the_table_add_up_to_what_is_predicted():
    plan = make_plan(make_costs(), make_losses(), Target("--speedup 6", MILLISECONDS, 8.2))
    _, *layers, dropped, rest = table(plan)
    assert [line.split()[0] for line in layers] == [f"encoder.{index}" for index in range(4)]
    kept = [line.split() for line in layers if "dropped" not in line]
    assert len(kept) == 3
    total = sum(float(cells[-3]) for cells in kept) + float(rest.split()[-2])
    assert total == pytest.approx(plan.total(MILLISECONDS), abs=0.01)
    assert sum(float(cells[-1]) for cells in [*kept, dropped.split()]) == pytest.approx(plan.loss, abs=0.01)
    assert f"3 of 4 layers stay, and in each {plan.shape.width} of 80 neurons." in reasons(plan)
    assert f"{49.6 / plan.total(MILLISECONDS):.2f} times as fast as 49.60 ms" in summary(plan)
