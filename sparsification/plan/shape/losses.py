"""Losses of smaller shapes: what a model's outputs lose with fewer neurons, and without some of its layers."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from sparsification.plan.drops import Drops, measure_drops
from sparsification.plan.kept import kept_text, losses_file
from sparsification.plan.losses import DAMPENING
from sparsification.plan.shape.encoder import Encoder, Shape
from sparsification.pruning.layer_reconstruction import LayerReconstruction
from sparsification.pruning.reconstruction import Problem, refit, wanda_mask
from sparsification.pruning.sensitivity import PROBED_BATCHES, TINY, Probe


@dataclass(frozen=True)
class ShapeLosses:
    """Losses by layer and width, and of the model without layers."""

    neurons: Sequence[Mapping[int, float]]  # of each layer, by width
    drops: Drops

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
        say("Losses: of fewer neurons")
        copied = copy.deepcopy(model).eval()  # while layers are solved, the forward passes of their model are replaced
        probe = Probe(copied, batches)
        return json.dumps(_of_neurons(model, encoder, batches, copied, probe, say))

    path = losses_file(folder, "neurons", model, batches, encoder.widths(), DAMPENING, PROBED_BATCHES)
    neurons = [{int(width): loss for width, loss in table.items()} for table in json.loads(kept_text(path, measure))]
    return ShapeLosses(neurons, measure_drops(model, [layer.name for layer in encoder.layers], batches, folder, say))


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
