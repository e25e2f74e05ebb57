"""A plan of a smaller dense model for a target."""

from collections.abc import Mapping
from dataclasses import dataclass

from sparsification.plan.allocation import lower_envelope
from sparsification.plan.planner import BYTES, MILLISECONDS, Target
from sparsification.plan.shape.costs import ShapeCosts
from sparsification.plan.shape.encoder import Shape
from sparsification.plan.shape.losses import ShapeLosses
from sparsification.plan.units import PlanError


@dataclass(frozen=True)
class ShapePlan:
    """A smaller model that meets its target."""

    target: Target
    shape: Shape
    costs: ShapeCosts
    losses: ShapeLosses
    curves: Mapping[str, list[tuple[float, float]]]  # costs of the target's kind and smallest losses

    def total(self, kind: str) -> float:
        """Predicted cost of the model."""
        return self.costs.of(self.shape, kind)

    @property
    def precision(self) -> str:
        """Number format."""
        return self.costs.precision

    @property
    def dense(self) -> dict[str, float]:
        """Costs of the dense fp32 model, by kind."""
        return {kind: getattr(self.costs.dense, kind) for kind in (MILLISECONDS, BYTES)}

    @property
    def loss(self) -> float:
        """Sum of the losses."""
        return self.losses.of(self.shape)


def make_plan(costs: ShapeCosts, losses: ShapeLosses, target: Target) -> ShapePlan:
    """Find the layers and the width with the smallest loss that meet a target.

    Args:
        costs: of this machine.
        losses: of the model.
        target: what the model may cost.

    Raises:
        PlanError: no shape meets the target, or the whole model does.
    """
    widths = costs.encoder.widths()
    whole = Shape((), costs.encoder.width)
    dense = target.text(getattr(costs.dense, target.kind))
    if costs.of(whole, target.kind) <= target.limit:
        least = target.text(costs.of(whole, target.kind))
        raise PlanError(f"{target.flag}: the whole model in {costs.precision} has {least}: nothing is to be removed")
    points = {
        Shape(dropped, width): (costs.of(Shape(dropped, width), target.kind), losses.of(Shape(dropped, width)))
        for dropped in losses.drops
        for width in widths
    }
    fitting = [shape for shape, (cost, _) in points.items() if cost <= target.limit]
    if not fitting:
        least = target.text(min(points.values())[0])
        raise PlanError(
            f"{target.flag} is {target.text(target.limit)}, which no shape meets: the least is {least} (dense {dense}) "
            f"with half of the layers and {widths[0]} of {widths[-1]} neurons; sparse layers may be faster"
        )
    shape = min(fitting, key=lambda shape: points[shape][::-1])
    return ShapePlan(target, shape, costs, losses, {costs.precision: lower_envelope(list(points.values()))})
