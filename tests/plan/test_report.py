"""Tables and pictures of plans."""

import pytest

from helpers.plans import LAYERS, UNITS, make_costs, make_losses
from sparsification.plan.planner import MILLISECONDS, Target, make_plan
from sparsification.plan.report import draw, mean_sparsity, reasons, summary, table
from sparsification.plan.units import PlanError


@pytest.fixture
def plan():
    return make_plan(UNITS, make_costs(), make_losses(), Target("--speedup 5", MILLISECONDS, 4.4), ["fp32", "int8"])


def test_lines_of_the_table_add_up_to_what_is_predicted(plan):
    _, *lines, rest = table(plan)
    assert [line.split()[0] for line in lines] == ["encoder.0", "encoder.1"]
    total = sum(float(line.split()[-3]) for line in lines) + float(rest.split()[-2])
    assert total == pytest.approx(plan.total(MILLISECONDS), abs=0.01)
    assert f"Predicted: {plan.total(MILLISECONDS):.2f} ms in int8" in summary(plan)
    assert f"{22 / plan.total(MILLISECONDS):.2f} times as fast as 22.00 ms" in summary(plan)


def test_reasons_say_the_mean_sparsity(plan):
    expected = sum(choice.option.sparsity for choice in plan.choices) / 2
    assert mean_sparsity(plan) == pytest.approx(expected)
    assert any(line.startswith(f"{expected:.1%} of the weights of these layers") for line in reasons(plan))
    assert "2 weights of layers that run several times stay dense, e.g. one." in reasons(plan, ["one", "two"])


def test_dropped_layers_are_named_with_their_loss():
    target = Target("", MILLISECONDS, 2.0)
    plan = make_plan(UNITS, make_costs(), make_losses(), target, ["int8"], LAYERS, {(0,): 0.25})
    assert any(line.endswith("encoder.0: loss 0.250") for line in table(plan))
    assert reasons(plan)[0].startswith("1 of 2 encoder layers are dropped. ")


def test_picture_is_drawn(plan, tmp_path):
    draw(plan, tmp_path / "plan.png")
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PlanError, match="--plot "):
        draw(plan, tmp_path / "nowhere" / "plan.png")
