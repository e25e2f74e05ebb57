"""Losses of smaller shapes: what a model's outputs lose with fewer neurons, and without some of its layers."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.plan.kept import digest, kept_text
from sparsification.plan.losses import DAMPENING
from sparsification.plan.shape.encoder import Encoder, Shape
from sparsification.plan.shape.recipe import write_recipe
from sparsification.pruning.layer_reconstruction import LayerReconstruction
from sparsification.pruning.reconstruction import Problem, refit, wanda_mask
from sparsification.pruning.sensitivity import PROBED_BATCHES, TINY, Probe


@dataclass(frozen=True)
class ShapeLosses:
    """Losses by layer and width, and of the model without layers."""

    neurons: Sequence[Mapping[int, float]]  # of each layer, by width
    drops: Mapping[tuple[int, ...], float]  # by the indices of the layers that are dropped; () has 0

    def of(self, shape: Shape) -> float:
        """Sum of the losses of a shape whose layers are among ``drops``."""
        blocks = sum(table[shape.width] for index, table in enumerate(self.neurons) if index not in shape.dropped)
        return self.drops[shape.dropped] + blocks


def measure_losses(
    model: PreTrainedModel,
    encoder: Encoder,
    batches: Sequence[Mapping[str, Tensor]],
    folder: Path,
    say: Callable[[str], None],
) -> ShapeLosses:
    """Measure the losses of a model, or read those that were measured before.

    Args:
        model: dense; not changed.
        encoder: of the model.
        batches: calibration data, arguments of ``forward``.
        folder: of the files with results.
        say: is told each step.
    """

    def measure() -> str:
        say("Losses: of fewer neurons and fewer layers")
        copied = copy.deepcopy(model).eval()  # while layers are solved, the forward passes of their model are replaced
        probe = Probe(copied, batches)
        neurons = _of_neurons(model, encoder, batches, copied, probe, say)
        return json.dumps({"neurons": neurons, "drops": _of_drops(copied, encoder, probe, say)})

    tensors = [*model.parameters(), *(t for b in batches for t in b.values())]
    path = folder / f"shape-losses-{digest(tensors, encoder.widths(), DAMPENING, PROBED_BATCHES)}.json"
    found = json.loads(kept_text(path, measure))
    drops: dict[tuple[int, ...], float] = {tuple(sorted(order)): loss for order, loss in found["drops"]}
    return ShapeLosses([{int(width): loss for width, loss in table.items()} for table in found["neurons"]], drops)


def _of_neurons(
    model: PreTrainedModel,
    encoder: Encoder,
    batches: Sequence[Mapping[str, Tensor]],
    copied: PreTrainedModel,
    probe: Probe,
    say: Callable[[str], None],
) -> list[dict[int, float]]:
    """The loss of each layer by width; ``copied``, the probe's model, gives sensitivities at half of the neurons."""
    names = [f"{layer.second}.weight" for layer in encoder.layers]
    widths = encoder.widths()[:-1]
    layers = LayerReconstruction(model, {name: model.get_parameter(name) for name in names})
    found = {}
    for name, problem in layers.problems(batches, DAMPENING):
        solved = {width: _fitted(problem, width / encoder.width) for width in widths}
        errors = {width: problem.relative_error(weight) for width, weight in solved.items()}
        half = widths[len(widths) // 2]
        factor = probe.change(copied.get_parameter(name), solved[half]) / max(errors[half], TINY)
        found[name] = {width: factor * error for width, error in errors.items()} | {encoder.width: 0.0}
        say(f"  neurons: {name}")
    return [found[name] for name in names]


def _fitted(problem: Problem, density: float) -> Tensor:
    return refit(problem, wanda_mask(problem, 1 - density, "channel"))


def _of_drops(
    model: PreTrainedModel, encoder: Encoder, probe: Probe, say: Callable[[str], None]
) -> list[tuple[list[int], float]]:
    """Layers in the order in which they go, at most half of them, and the loss without them."""
    steps: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(len(encoder.layers) // 2):
        before = steps[-1][0]
        changes = {}
        for index in range(len(encoder.layers)):
            if index not in before and (shorter := _without(model, encoder, [*before, index])) is not None:
                changes[index] = probe.change_of(shorter)
        if not changes:
            break
        index = min(changes, key=changes.__getitem__)
        steps.append(([*before, index], changes[index]))
        say(f"  layers: without {', '.join(map(str, sorted(steps[-1][0])))}")
    return steps


def _without(model: PreTrainedModel, encoder: Encoder, dropped: Sequence[int]) -> PreTrainedModel | None:
    """A copy without some layers; None if the model's class could not load it."""
    copied = copy.deepcopy(model).eval()
    recipe = write_recipe(encoder, Shape(tuple(sorted(dropped)), encoder.width), int8=False)
    try:
        ScheduledModifierManager.from_yaml(recipe).initialize(copied)
    except ManagerError:
        return None
    return copied
