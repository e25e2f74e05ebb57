"""Losses of each weight: what its pruning changes in the model's outputs, kept in a file.

A loss is the relative error of the layer's outputs in a pattern and sparsity, by SparseGPT on calibration data with the
inputs and outputs of the dense model, times the sensitivity of the model to this layer. A file has a line of JSON for
each weight and is named by a digest of all that the errors depend on, so that an interrupted study goes on.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from sparsification.cpu import weight_bits
from sparsification.plan.kept import digest
from sparsification.plan.rounding import round_weight
from sparsification.plan.units import BLOCKS, DENSE, MASK_TYPES, SPARSITIES, UNSTRUCTURED, Option, Unit
from sparsification.pruning.layer_reconstruction import LayerReconstruction
from sparsification.pruning.reconstruction import Problem, sparsegpt
from sparsification.pruning.sensitivity import PROBED_BATCHES, TINY, Probe

DAMPENING = 0.01  # that of ReconstructionPruningModifier
PROBE = 0.8  # unstructured sparsity at which sensitivities are measured
LINE_BYTES = 640  # of a weight in the file, about


class Losses:
    """Losses by weight.

    Args:
        rows: for each weight "int8", the error of rounding, for each pattern the errors by sparsity, and the
            "sensitivity" that they are multiplied by.
    """

    def __init__(self, rows: Mapping[str, Mapping[str, float | Mapping[str, float]]]):
        self._rows = rows

    def of(self, unit: Unit, option: Option) -> float:
        """Sum of the losses of a unit's weights."""
        return sum(self._of(self._rows[name], option) for name in unit.weights)

    def _of(self, row: Mapping, option: Option) -> float:
        pruned = 0.0 if option.pattern == DENSE else row[option.pattern][f"{option.sparsity:g}"]
        return row["sensitivity"] * (pruned + (row["int8"] if option.precision == "int8" else 0.0))


def measure_losses(
    model: PreTrainedModel,
    units: Sequence[Unit],
    batches: Sequence[Mapping[str, Tensor]],
    folder: Path,
    say: Callable[[str], None],
) -> Losses:
    """Measure errors and sensitivities of all weights that the folder does not have yet.

    Args:
        model: dense; not changed.
        units: of the model.
        batches: calibration data, arguments of ``forward``.
        folder: of the files.
        say: is told the size of the file before, and each weight.
    """
    parameters = dict(model.named_parameters())
    weights = {name: parameters[name] for unit in units for name in unit.weights}
    tensors = [*weights.values(), *(t for b in batches for t in b.values())]
    settings = SPARSITIES, sorted(MASK_TYPES), DAMPENING, PROBE, PROBED_BATCHES, weight_bits()
    path = folder / f"losses-{digest(tensors, *settings)}.jsonl"
    rows = _read(path)
    missing = {name: weight for name, weight in weights.items() if name not in rows}
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        problems = len(missing) * len(MASK_TYPES) * len(SPARSITIES)
        size = len(weights) * LINE_BYTES / 1000
        say(f"Losses: {problems} problems of {len(missing)} of {len(weights)} weights; about {size:.0f} kB in {path}")
        layers = LayerReconstruction(model, missing)
        copied = copy.deepcopy(model).eval()  # ``layers`` replaces the forward passes of the model
        probe = Probe(copied, batches)
        with path.open("a", encoding="utf-8") as file:
            for number, (name, problem) in enumerate(layers.problems(batches, DAMPENING), start=1):
                errors, pruned = _errors(problem)
                change = probe.change(copied.get_parameter(name), pruned)
                rows[name] = errors | {"sensitivity": change / max(errors[UNSTRUCTURED][f"{PROBE:g}"], TINY)}
                file.write(json.dumps({"name": name, **rows[name]}) + "\n")
                file.flush()
                say(f"  {number} of {len(missing)}: {name}")
    return Losses(rows)


def int8_error(problem: Problem, bits: int) -> float:
    """Relative error of a dense layer in int8, with weights of so many bits.

    The error of the inputs' rounding, with one scale of 255 steps over their range, is that of independent uniform
    noise: a twelfth of the square of a step for each input.
    """
    weight = problem.weight.double()
    integers, scale = round_weight(weight, bits)
    noise = (problem.input_range / 255) ** 2 / 12 * float(weight.square().sum())
    return problem.relative_error(integers * scale) + noise / max(problem.power, TINY)


def _errors(problem: Problem) -> tuple[dict, Tensor]:
    """The errors of a weight, and the weight that sensitivity is measured with."""
    solved = {p: {s: sparsegpt(problem, s, MASK_TYPES[p])[0] for s in SPARSITIES} for p in (UNSTRUCTURED, BLOCKS)}
    errors = {
        pattern: {f"{sparsity:g}": problem.relative_error(weight) for sparsity, weight in weights.items()}
        for pattern, weights in solved.items()
    }
    return {"int8": int8_error(problem, weight_bits()), **errors}, solved[UNSTRUCTURED][PROBE]


def _read(path: Path) -> dict[str, dict]:
    """The complete lines of a file; the last one of an interrupted study may be cut."""
    if not path.exists():
        return {}
    *lines, rest = path.read_text(encoding="utf-8").split("\n")
    if rest:
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    rows = [json.loads(line) for line in lines]
    return {row["name"]: {key: value for key, value in row.items() if key != "name"} for row in rows}
