"""What a plan chooses: units of linear layers that share their inputs, and options for each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sparsification.errors import SparsificationError
from sparsification.pruning.layer_walk import shared_inputs
from sparsification.targets import Targets

SPARSITIES = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
DENSE, UNSTRUCTURED, BLOCKS = "dense", "unstructured", "1x4"
MASK_TYPES = {UNSTRUCTURED: "unstructured", BLOCKS: "block4"}
PATTERNS = {"fp32": (UNSTRUCTURED,), "int8": (UNSTRUCTURED, BLOCKS)}  # that the sparse operators are fast with


class PlanError(SparsificationError, ValueError):
    """There is no plan for this model and target."""


@dataclass(frozen=True)
class Option:
    """How a unit is computed."""

    precision: str  # fp32 or int8
    pattern: str = DENSE
    sparsity: float = 0.0

    def __str__(self) -> str:
        return f"{self.precision} {self.pattern}" + (f" {self.sparsity:.0%}" if self.sparsity else "")


def options(precision: str) -> list[Option]:
    """All options of a number format, the dense one first."""
    sparse = [Option(precision, pattern, sparsity) for pattern in PATTERNS[precision] for sparsity in SPARSITIES]
    return [Option(precision), *sparse]


@dataclass(frozen=True)
class Unit:
    """Linear layers with the same inputs, which are pruned alike."""

    weights: tuple[str, ...]  # names of the parameters
    inputs: int
    outputs: int  # of all layers together

    @property
    def label(self) -> str:
        """Name of the first layer, and the last parts of the names of the others."""
        first, *others = (name.removesuffix(".weight") for name in self.weights)
        return ", ".join([first, *(name.rpartition(".")[2] for name in others)])

    def is_inside(self, layers: Iterable[str]) -> bool:
        """Whether the unit is part of one of these encoder layers."""
        return self.weights[0].startswith(tuple(f"{layer}." for layer in layers))

    @property
    def shape(self) -> tuple[int, int]:
        """Inputs and outputs."""
        return self.inputs, self.outputs


def find_units(model: nn.Module, batch: Mapping[str, Tensor]) -> list[Unit]:
    """Find the units of a model's encoder, those of ``__ENCODER__``, in the order of their calls.

    Layers that run several times in one pass, as DeBERTa's with shared projections do, have no time of their own: they
    are in no unit.

    Args:
        model: in evaluation mode.
        batch: arguments of ``forward``.

    Raises:
        PlanError: the encoder has no linear layer, or all of them run several times (ALBERT).
    """
    weights = Targets(model).parameters("__ENCODER__", strict=False)
    names = {name.removesuffix(".weight"): name for name in weights}
    found = shared_inputs(model, list(names), batch)
    if not found:
        raise PlanError("the model's encoder has no linear layer that can be pruned")
    units = []
    for modules, calls in found:
        if calls == 1:
            shapes = [weights[names[module]].shape for module in modules]
            units.append(
                Unit(tuple(names[module] for module in modules), shapes[0][1], sum(outputs for outputs, _ in shapes))
            )
    if not units:
        modules, calls = found[0]
        raise PlanError(f"{modules[0]} runs {calls} times in one pass: plans are for layers that run once")
    return units


def outside_of_units(model: nn.Module, units: Iterable[Unit]) -> list[str]:
    """Names of the weights of ``__ENCODER__`` that are in no unit."""
    inside = {name for unit in units for name in unit.weights}
    return [name for name in Targets(model).parameters("__ENCODER__", strict=False) if name not in inside]
