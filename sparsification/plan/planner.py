"""A plan for a target: an option for each unit of a model, with the smallest sum of losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sparsification.plan.allocation import allocate, frontier, lower_envelope
from sparsification.plan.costs import Costs
from sparsification.plan.drops import NONE, Drops
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
    kept: Sequence[str] = ()  # encoder layers
    dropped: Sequence[str] = ()
    drop_loss: float = 0.0  # of all that are dropped together

    def total(self, kind: str) -> float:
        """Predicted cost of the model."""
        return self.rest[kind] + sum(getattr(choice, kind) for choice in self.choices)

    @property
    def loss(self) -> float:
        """Sum of the losses."""
        return self.drop_loss + sum(choice.loss for choice in self.choices)

    @property
    def is_sparse(self) -> bool:
        """Whether a unit is pruned."""
        return any(choice.option.pattern != DENSE for choice in self.choices)


def make_plan(
    units: Sequence[Unit],
    costs: Costs,
    losses: Losses,
    target: Target,
    precisions: Sequence[str],
    layers: Sequence[str] = (),
    drops: Drops = NONE,
) -> Plan:
    """Find the layers that stay and the options of their units that meet a target.

    Args:
        units: of the model.
        costs: of this machine.
        losses: of the model's weights.
        target: what the model may cost.
        precisions: number formats to choose from.
        layers: of the model's encoder.
        drops: which of them may be dropped, and the losses.

    Raises:
        PlanError: no model of the options meets the target, or the dense one does.
    """
    if getattr(costs.dense, target.kind) <= target.limit and "fp32" in precisions:
        dense = target.text(getattr(costs.dense, target.kind))
        raise PlanError(f"{target.flag}: the dense model has {dense} and meets it: nothing is to be pruned")
    searches = [
        _Search(units, costs, losses, target, precision, layers, dropped, loss)
        for precision in precisions
        for dropped, loss in drops.items()
        if not dropped or precision in costs.shorter
    ]
    plans = [plan for search in searches if (plan := search.plan()) is not None]
    if not plans:
        best, rest = min((search.least, search.rest) for search in searches)
        raise PlanError(
            f"{target.flag} is {target.text(target.limit)}, which no plan meets: the least is {target.text(best)} "
            f"(dense {target.text(getattr(costs.dense, target.kind))}), of which {target.text(rest)} are not linear "
            "layers of the encoder"
        )
    points = {
        precision: [p for s in searches if s.precision == precision for p in s.curve()] for precision in precisions
    }
    return replace(
        min(plans, key=lambda plan: plan.loss),
        curves={precision: lower_envelope(found) for precision, found in points.items()},
    )


class _Search:
    """The options of all units in one number format, without some of the layers."""

    def __init__(
        self,
        units: Sequence[Unit],
        costs: Costs,
        losses: Losses,
        target: Target,
        precision: str,
        layers: Sequence[str],
        dropped: tuple[int, ...],
        drop_loss: float,
    ):
        self.precision = precision
        self._costs, self._losses, self._target = costs, losses, target
        self._drop_loss = drop_loss
        self._kept = [layer for index, layer in enumerate(layers) if index not in dropped]
        self._dropped = [layers[index] for index in dropped]
        stays = [not any(map(unit.is_inside, self._dropped)) for unit in units]
        self._units = [unit for unit, kept in zip(units, stays, strict=True) if kept]
        self._rests, self._tables = {}, {}
        for kind in (MILLISECONDS, BYTES):
            rest, tables = costs.of_units(units, precision, kind)
            of_layer = costs.of_layer(units, layers, precision, kind) if dropped else 0.0
            self._rests[kind] = rest - len(dropped) * of_layer
            self._tables[kind] = [table for table, kept in zip(tables, stays, strict=True) if kept]
        self.rest, self._table = self._rests[target.kind], self._tables[target.kind]
        self._values = [list(options.values()) for options in self._table]
        self._errors = [
            [losses.of(unit, o) for o in options] for unit, options in zip(self._units, self._table, strict=True)
        ]

    @property
    def least(self) -> float:
        """The smallest cost."""
        return self.rest + sum(map(min, self._values))

    def curve(self) -> list[tuple[float, float]]:
        """Costs of models, and their smallest losses."""
        return [(self.rest + cost, self._drop_loss + loss) for cost, loss in frontier(self._values, self._errors)]

    def plan(self) -> Plan | None:
        """The plan with the smallest loss; None if none meets the target."""
        picks = allocate(self._values, self._errors, self._target.limit - self.rest)
        if picks is None:
            return None
        chosen = [list(options)[pick] for options, pick in zip(self._table, picks, strict=True)]
        whole = getattr(self._costs.models[Option(self.precision)], self._target.kind)
        if self._dropped or whole > self._target.limit:
            chosen = self._sparse_somewhere(chosen)
        times, sizes = (self._tables[kind] for kind in (MILLISECONDS, BYTES))
        choices = [
            Choice(unit, option, times[i][option], sizes[i][option], self._losses.of(unit, option))
            for i, (unit, option) in enumerate(zip(self._units, chosen, strict=True))
        ]
        rests = self._rests
        if all(option.pattern == DENSE for option in chosen):
            model = self._costs.models[Option(self.precision)]
            rests = {kind: getattr(model, kind) - sum(getattr(c, kind) for c in choices) for kind in rests}
        dense = {kind: getattr(self._costs.dense, kind) for kind in (MILLISECONDS, BYTES)}
        return Plan(self._target, self.precision, choices, rests, dense, {}, self._kept, self._dropped, self._drop_loss)

    def _sparse_somewhere(self, chosen: Sequence[Option]) -> list[Option]:
        """If all units are dense, prune the one that loses least: only files with sparse layers have fused blocks."""
        if any(option.pattern != DENSE for option in chosen):
            return list(chosen)
        sparse = [
            (index, option)
            for index, options in enumerate(self._table)
            for option in options
            if option.pattern != DENSE
        ]
        index, option = min(sparse, key=lambda pair: self._losses.of(self._units[pair[0]], pair[1]))
        return [option if index == other else dense for other, dense in enumerate(chosen)]
