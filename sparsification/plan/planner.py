"""A plan for a target: an option for each unit of a model, with the smallest sum of losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from sparsification.plan.allocation import allocate, frontier
from sparsification.plan.costs import Costs
from sparsification.plan.losses import Losses
from sparsification.plan.units import DENSE, Option, PlanError, Unit

MILLISECONDS, BYTES = "milliseconds", "bytes"


@dataclass(frozen=True)
class Target:
    """What a model may cost."""

    flag: str  # as it was given, for messages
    kind: str  # MILLISECONDS or BYTES
    limit: float

    def text(self, value: float) -> str:
        """A cost of this kind with its unit."""
        return f"{value:.3g} ms" if self.kind == MILLISECONDS else f"{value / 1e6:.3g} MB"


class AnyPlan(Protocol):
    """What all plans say."""

    @property
    def target(self) -> Target:
        """What the model may cost."""

    @property
    def precision(self) -> str:
        """Its number format."""

    @property
    def curves(self) -> Mapping[str, list[tuple[float, float]]]:
        """By number format: costs of the target's kind, and the smallest losses."""

    @property
    def dense(self) -> Mapping[str, float]:
        """Costs of the dense fp32 model, by kind."""

    @property
    def loss(self) -> float:
        """Sum of the losses."""

    def total(self, kind: str) -> float:
        """Predicted cost of the model."""


@dataclass(frozen=True)
class Choice:
    """The option of a unit, with its costs and its loss."""

    unit: Unit
    option: Option
    milliseconds: float
    bytes: float
    loss: float


@dataclass(frozen=True)
class Plan:
    """A model that meets its target."""

    target: Target
    precision: str
    choices: list[Choice]
    rest: Mapping[str, float]  # costs of everything else, by kind
    dense: Mapping[str, float]  # costs of the dense fp32 model, by kind
    curves: Mapping[str, list[tuple[float, float]]]  # by number format: costs of the target's kind, smallest losses

    def total(self, kind: str) -> float:
        """Predicted cost of the model."""
        return self.rest[kind] + sum(getattr(choice, kind) for choice in self.choices)

    @property
    def loss(self) -> float:
        """Sum of the losses."""
        return sum(choice.loss for choice in self.choices)

    @property
    def is_sparse(self) -> bool:
        """Whether a unit is pruned."""
        return any(choice.option.pattern != DENSE for choice in self.choices)


def make_plan(units: Sequence[Unit], costs: Costs, losses: Losses, target: Target, precisions: Sequence[str]) -> Plan:
    """Find the options of all units that meet a target.

    Args:
        units: of the model.
        costs: of this machine.
        losses: of the model's weights.
        target: what the model may cost.
        precisions: number formats to choose from.

    Raises:
        PlanError: no model of the options meets the target, or the dense one does.
    """
    if getattr(costs.dense, target.kind) <= target.limit and "fp32" in precisions:
        dense = target.text(getattr(costs.dense, target.kind))
        raise PlanError(f"{target.flag}: the dense model has {dense} and meets it: nothing is to be pruned")
    plans, least, curves = [], [], {}
    for precision in precisions:
        rest, table = costs.of_units(units, precision, target.kind)
        values = [list(options.values()) for options in table]
        errors = [[losses.of(unit, o) for o in options] for unit, options in zip(units, table, strict=True)]
        curves[precision] = [(rest + cost, loss) for cost, loss in frontier(values, errors)]
        least.append((rest + sum(map(min, values)), rest))
        picks = allocate(values, errors, target.limit - rest)
        if picks is None:
            continue
        chosen = [list(options)[pick] for options, pick in zip(table, picks, strict=True)]
        if getattr(costs.models[Option(precision)], target.kind) > target.limit:
            chosen = _sparse_somewhere(units, losses, table, chosen)
        plans.append(_plan(units, costs, losses, target, chosen, curves))
    if not plans:
        best, rest = min(least)
        raise PlanError(
            f"{target.flag} is {target.text(target.limit)}, which no plan meets: the least is {target.text(best)} "
            f"(dense {target.text(getattr(costs.dense, target.kind))}), of which {target.text(rest)} are not linear "
            "layers of the encoder"
        )
    return min(plans, key=lambda plan: plan.loss)


def _sparse_somewhere(
    units: Sequence[Unit], losses: Losses, table: Sequence[Mapping[Option, float]], chosen: Sequence[Option]
) -> list[Option]:
    """If all units are dense, prune the one that loses least by it: only files with sparse layers have fused blocks."""
    if any(option.pattern != DENSE for option in chosen):
        return list(chosen)
    sparse = [(unit, option) for unit, options in enumerate(table) for option in options if option.pattern != DENSE]
    unit, option = min(sparse, key=lambda pair: losses.of(units[pair[0]], pair[1]))
    return [option if index == unit else other for index, other in enumerate(chosen)]


def _plan(
    units: Sequence[Unit],
    costs: Costs,
    losses: Losses,
    target: Target,
    chosen: Sequence[Option],
    curves: Mapping[str, list[tuple[float, float]]],
) -> Plan:
    precision = chosen[0].precision
    rests, tables = {}, {}
    for kind in (MILLISECONDS, BYTES):
        rests[kind], tables[kind] = costs.of_units(units, precision, kind)
    choices = [
        Choice(unit, option, tables[MILLISECONDS][i][option], tables[BYTES][i][option], losses.of(unit, option))
        for i, (unit, option) in enumerate(zip(units, chosen, strict=True))
    ]
    if all(option.pattern == DENSE for option in chosen):
        rests = {
            kind: getattr(costs.models[chosen[0]], kind) - sum(getattr(c, kind) for c in choices) for kind in rests
        }
    dense = {kind: getattr(costs.dense, kind) for kind in (MILLISECONDS, BYTES)}
    return Plan(target, precision, choices, rests, dense, curves)
