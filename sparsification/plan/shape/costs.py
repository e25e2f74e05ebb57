"""Costs of smaller dense models on this machine: milliseconds and bytes, from three models that are timed."""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from sparsification.plan.apply import BATCH_SIZE, apply_recipe
from sparsification.plan.costs import Cost, Setting, time_files
from sparsification.plan.drops import every_other
from sparsification.plan.kept import kept_timings, timings_file
from sparsification.plan.shape.encoder import Encoder, Shape
from sparsification.plan.shape.recipe import write_recipe


@dataclass(frozen=True)
class ShapeCosts:
    """What was measured: the dense model and two smaller ones in one number format."""

    encoder: Encoder
    precision: str
    models: Mapping[Shape, Cost]  # of ``timed_shapes``
    dense: Cost  # of the dense model in fp32

    def of(self, shape: Shape, kind: str) -> float:
        """Predicted cost of a model.

        Args:
            shape: its shape.
            kind: "milliseconds" or "bytes".
        """
        rest, layer, neuron = self.parts(kind)
        return rest + (len(self.encoder.layers) - len(shape.dropped)) * (layer + neuron * shape.width)

    def parts(self, kind: str) -> tuple[float, float, float]:
        """Costs of everything outside of the layers, of a layer without its neurons, and of a neuron."""
        (whole, dense), (narrow, thin), (short, few) = (
            (shape, getattr(cost, kind)) for shape, cost in self.models.items()
        )
        layers = len(self.encoder.layers)
        neuron = (dense - thin) / layers / (whole.width - narrow.width)
        each = (dense - few) / len(short.dropped)
        return dense - layers * each, each - neuron * whole.width, neuron


def timed_shapes(encoder: Encoder) -> list[Shape]:
    """The dense shape, one with few neurons, and one without every other layer."""
    names = [layer.name for layer in encoder.layers]
    return [
        Shape((), encoder.width),
        Shape((), encoder.widths()[len(encoder.widths()) // 4]),
        Shape(every_other(names), encoder.width),
    ]


def measure_costs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, list[int]]],
    encoder: Encoder,
    precision: str,
    setting: Setting,
    folder: Path,
    say: Callable[[str], None],
) -> ShapeCosts:
    """Measure the costs on this machine, or read those that were measured before.

    Args:
        model: dense, in fp32; not changed.
        tokenizer: of the model.
        rows: features for the ranges of int8.
        encoder: of the model.
        precision: number format of the smaller models.
        setting: what to time.
        folder: of the files with results.
        say: is told what is being done.

    Raises:
        ExportError: the model cannot be exported.
    """
    shapes = timed_shapes(encoder)
    dense = Shape((), encoder.width)
    wanted = list(dict.fromkeys([("fp32", dense), *((precision, shape) for shape in shapes)]))

    def measure() -> str:
        say(f"Costs: timing {len(wanted)} models, once for this machine, model and batch; minutes for a MiniLM")
        few = rows[:BATCH_SIZE]
        with tempfile.TemporaryDirectory() as scratch:
            files = []
            for number, (number_format, shape) in enumerate(wanted):
                recipe = write_recipe(encoder, shape, number_format == "int8", modifier="GMPruningModifier")
                files.append(apply_recipe(model, tokenizer, recipe, few, Path(scratch, str(number)), sparse=False))
            times = time_files(files, setting, model.config.vocab_size)
            return json.dumps([[time, file.stat().st_size] for time, file in zip(times, files, strict=True)])

    path = timings_file(folder, "shapes", model, setting, wanted)
    measured = json.loads(kept_timings(path, measure, say))
    costs = {key: Cost(*values) for key, values in zip(wanted, measured, strict=True)}
    return ShapeCosts(encoder, precision, {shape: costs[precision, shape] for shape in shapes}, costs["fp32", dense])
