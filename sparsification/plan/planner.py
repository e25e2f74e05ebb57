"""A plan for a target: an option for each unit of a model, with the smallest sum of losses."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sparsification.plan.allocation import allocate, frontier, lower_envelope
from sparsification.plan.costs import Costs
from sparsification.plan.drops import NONE, Drops
from sparsification.plan.losses import Losses
from sparsification.plan.units import DENSE, Option, PlanError, Unit

KINDS = MILLISECONDS, BYTES = "milliseconds", "bytes"  # of costs


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
    models = [_Model(units, costs, losses, precision, layers) for precision in precisions]
    searches = [
        _Search(model, target, dropped, loss)
        for model in models
        for dropped, loss in drops.items()
        if not dropped or model.of_layer
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


class _Model:
    """What the units and the layers of the whole model cost and lose in one number format."""

    def __init__(
        self, units: Sequence[Unit], costs: Costs, losses: Losses, precision: str, layers: Sequence[str]
    ) -> None:
        self.units, self.layers, self.precision = units, layers, precision
        self.float, self.dense = (
            {kind: getattr(costs.models[option], kind) for kind in KINDS}
            for option in (Option("fp32"), Option(precision))
        )
        found = {kind: costs.of_units(units, precision, kind) for kind in KINDS}
        self.rests = {kind: rest for kind, (rest, _) in found.items()}
        self.tables = {kind: tables for kind, (_, tables) in found.items()}  # of the units
        self.errors = [
            {option: losses.of(unit, option) for option in table}
            for unit, table in zip(units, self.tables[MILLISECONDS], strict=True)
        ]
        timed = layers and precision in costs.shorter
        self.of_layer = {kind: costs.of_layer(units, layers, precision, kind) for kind in KINDS} if timed else {}


class _Search:
    """The options of a model's units, without some of the layers."""

    def __init__(self, model: _Model, target: Target, dropped: Sequence[int], drop_loss: float) -> None:
        self.precision = model.precision
        self._model, self._target, self._drop_loss = model, target, drop_loss
        self._kept = [layer for index, layer in enumerate(model.layers) if index not in dropped]
        self._dropped = [model.layers[index] for index in dropped]
        self._stay = [index for index, unit in enumerate(model.units) if not unit.is_inside(self._dropped)]
        self._rests = {kind: rest - len(dropped) * model.of_layer.get(kind, 0.0) for kind, rest in model.rests.items()}
        self.rest = self._rests[target.kind]
        self._values = [list(model.tables[target.kind][index].values()) for index in self._stay]
        self._errors = [list(model.errors[index].values()) for index in self._stay]

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
        model, tables = self._model, self._model.tables
        chosen = {index: list(model.errors[index])[pick] for index, pick in zip(self._stay, picks, strict=True)}
        if self._dropped or model.dense[self._target.kind] > self._target.limit:
            self._prune_somewhere(chosen)
        choices = [
            Choice(
                model.units[i],
                option,
                tables[MILLISECONDS][i][option],
                tables[BYTES][i][option],
                model.errors[i][option],
            )
            for i, option in chosen.items()
        ]
        rests = self._rests
        if all(choice.option.pattern == DENSE for choice in choices):
            rests = {kind: model.dense[kind] - sum(getattr(c, kind) for c in choices) for kind in KINDS}
        return Plan(
            self._target, self.precision, choices, rests, model.float, {}, self._kept, self._dropped, self._drop_loss
        )

    def _prune_somewhere(self, chosen: dict[int, Option]) -> None:
        """If all units are dense, prune the one that loses least: only files with sparse layers have fused blocks."""
        if any(option.pattern != DENSE for option in chosen.values()):
            return
        errors = self._model.errors
        sparse = [(index, option) for index in chosen for option in errors[index] if option.pattern != DENSE]
        index, option = min(sparse, key=lambda pair: errors[pair[0]][pair[1]])
        chosen[index] = option
