"""A plan as a table and as a picture."""

from collections.abc import Sequence
from pathlib import Path

from sparsification.plan.planner import BYTES, MILLISECONDS, AnyPlan, Plan
from sparsification.plan.units import DENSE, PlanError


def summary(plan: AnyPlan) -> str:
    """What a plan predicts, in one sentence."""
    costs = {kind: (plan.dense[kind], plan.total(kind)) for kind in (MILLISECONDS, BYTES)}
    (before, after), (large, small) = costs[MILLISECONDS], costs[BYTES]
    return (
        f"Predicted: {after:.2f} ms in {plan.precision}, {before / after:.2f} times as fast as {before:.2f} ms of the "
        f"dense fp32 model; {small / 1e6:.1f} MB of {large / 1e6:.1f} MB; loss {plan.loss:.3f}."
    )


def table(plan: Plan) -> list[str]:
    """A line for each unit and for the rest of the model."""
    width = max(len(choice.unit.label) for choice in plan.choices)
    lines = [f"{'layers':<{width}}  {'inputs x outputs':>16}  {'option':<22} {'ms':>7} {'MB':>7} {'loss':>7}"]
    for choice in plan.choices:
        shape = f"{choice.unit.inputs} x {choice.unit.outputs}"
        lines.append(
            f"{choice.unit.label:<{width}}  {shape:>16}  {choice.option!s:<22} {choice.milliseconds:>7.3f} "
            f"{choice.bytes / 1e6:>7.3f} {choice.loss:>7.3f}"
        )
    if plan.dropped:
        lines.append(f"{'without':<{width}}  {', '.join(plan.dropped)}: loss {plan.drop_loss:.3f}")
    rest = f"{plan.rest[MILLISECONDS]:>7.3f} {plan.rest[BYTES] / 1e6:>7.3f}"
    return [*lines, f"{'everything else':<{width}}  {'':>16}  {'':<22} {rest}"]


def mean_sparsity(plan: Plan) -> float:
    """Sparsity of all units together, in [0, 1]."""
    sizes = [choice.unit.inputs * choice.unit.outputs for choice in plan.choices]
    zeros = sum(size * choice.option.sparsity for size, choice in zip(sizes, plan.choices, strict=True))
    return zeros / sum(sizes)


def draw(plan: AnyPlan, path: Path) -> None:
    """Draw the smallest loss over the cost for each number format, and the plan.

    Args:
        plan: the plan.
        path: of the picture; its ending names the format.

    Raises:
        PlanError: the file cannot be written.
    """
    from matplotlib.figure import Figure  # takes a second

    from sparsification.report.plots import DARK, style

    kind = plan.target.kind
    unit, scale = ("latency, ms", 1.0) if kind == MILLISECONDS else ("file size, MB", 1e-6)
    with style():
        figure = Figure(figsize=(6.0, 3.6), layout="constrained")
        axes = figure.subplots()
        for precision, points in plan.curves.items():
            axes.plot([cost * scale for cost, _ in points], [loss for _, loss in points], label=precision)
        axes.axvline(plan.target.limit * scale, color=DARK, linestyle=(0, (4, 2)), linewidth=1.1, label="target")
        axes.plot([plan.total(kind) * scale], [plan.loss], "o", color=DARK, markersize=6, label="plan")
        axes.set_xlabel(f"predicted {unit}")
        axes.set_ylabel("loss")
        axes.set_ylim(bottom=0)
        axes.legend()
        try:
            figure.savefig(path, dpi=130)
        except (OSError, ValueError) as error:
            raise PlanError(f"--plot {path}: {error}") from error


def reasons(plan: Plan, outside: Sequence[str] = ()) -> list[str]:
    """Sentences about a plan.

    Args:
        plan: the plan.
        outside: names of the encoder's weights that are in none of its units.
    """
    dense = sum(choice.option.pattern == DENSE for choice in plan.choices)
    dropped = f"{len(plan.dropped)} of {len(plan.dropped) + len(plan.kept)} encoder layers are dropped. "
    found = [
        f"{dropped if plan.dropped else ''}{mean_sparsity(plan):.1%} of the weights of these layers are pruned; "
        f"{dense} of {len(plan.choices)} groups of layers stay dense."
    ]
    if outside:
        found.append(f"{len(outside)} weights of layers that run several times stay dense, e.g. {outside[0]}.")
    return [
        *found,
        "Loss: what pruning changes in the model's outputs, in units of their variance, one layer at a time, and the "
        "dropped layers together; the sum is the smallest one within the target.",
    ]
