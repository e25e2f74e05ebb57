"""Costs of each option of a unit on this machine, milliseconds and bytes; see the package's docstring for the model.

What was measured is kept in a file, named by a digest of all that it depends on: the processor, ONNX Runtime, the
library of the sparse operators, the model, the batch and the threads.
"""

import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from sparsification.plan.apply import BATCH_SIZE
from sparsification.plan.drops import every_other
from sparsification.plan.engines import OPERATORS, identity, session
from sparsification.plan.kept import kept_timings, timings_file
from sparsification.plan.layer_files import Layers, write_layers
from sparsification.plan.model_files import ModelFiles, Models, models_to_time, random_inputs, write_models
from sparsification.plan.timing import all_times, take_turns, variation
from sparsification.plan.units import DENSE, Option, Unit

FORMAT = 5  # of the file
ROUNDS, SECONDS = 15, 0.02  # of turns
UNSTEADY = 0.2  # variation of a model's times that is told
T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What is timed."""

    batch: int = 1
    length: int = 128
    threads: int = 1
    engine: str = OPERATORS


@dataclass(frozen=True)
class Cost:
    """Of an option, or of a model."""

    milliseconds: float
    bytes: float


@dataclass(frozen=True)
class Costs:
    """What was measured: of layers by shape and option, of models by option of all units.

    Of models with the sparsest of these options in all units but those of one shape, which are dense, by number format
    and shape; and of such a model without some of its layers, by number format.
    """

    layers: Mapping[tuple[int, int], Mapping[Option, Cost]]
    models: Mapping[Option, Cost]
    mixed: Mapping[str, Mapping[tuple[int, int], Cost]]
    shorter: Mapping[str, Cost] = field(default_factory=dict)  # without ``every_other`` layer

    @property
    def dense(self) -> Cost:
        """Of the dense model in fp32."""
        return self.models[Option("fp32")]

    def of_units(self, units: Sequence[Unit], precision: str, kind: str) -> tuple[float, list[dict[Option, float]]]:
        """Costs that add up to that of a model.

        Args:
            units: of the model.
            precision: number format of the model.
            kind: "milliseconds" or "bytes".

        Returns:
            The rest of the model, and for each unit the cost of each option.
        """

        def of_layers(option: Option) -> float:
            return sum(getattr(self.layers[unit.shape][option], kind) for unit in units)

        dense, line = Option(precision), self._line(precision)
        if len(line) < 2:
            return getattr(self.models[dense], kind) - of_layers(dense), [
                {dense: getattr(self.layers[u.shape][dense], kind)} for u in units
            ]
        (low, high), (less, more) = line, (getattr(self.models[option], kind) for option in line)
        spread = of_layers(low) - of_layers(high)
        factor = (less - more) / spread if spread else 1.0  # files for the execution provider are as large
        counts = Counter(unit.shape for unit in units)
        found = []
        for unit in units:
            table = {
                option: factor * getattr(cost, kind)
                for option, cost in self.layers[unit.shape].items()
                if option.precision == precision
            }
            added = (getattr(self.mixed[precision][unit.shape], kind) - more) / counts[unit.shape]
            found.append(table | {dense: table[high] + added})
        return more - factor * of_layers(high), found

    def of_layer(self, units: Sequence[Unit], layers: Sequence[str], precision: str, kind: str) -> float:
        """Cost of an encoder layer besides its units, in a number format in which a shorter model was timed.

        Args:
            units: of the whole model.
            layers: of its encoder.
            precision: number format of the model.
            kind: "milliseconds" or "bytes".
        """
        sparsest = self._line(precision)[-1]
        _, tables = self.of_units(units, precision, kind)
        gone = [layers[index] for index in every_other(layers)]
        saved = getattr(self.models[sparsest], kind) - getattr(self.shorter[precision], kind)
        of_units = sum(table[sparsest] for unit, table in zip(units, tables, strict=True) if unit.is_inside(gone))
        return (saved - of_units) / len(gone)

    def _line(self, precision: str) -> list[Option]:
        """The options of the sparse models."""
        return [option for option in self.models if option.precision == precision and option.pattern != DENSE]


def measure_costs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, list[int]]],
    units: Sequence[Unit],
    layers: Sequence[str],
    setting: Setting,
    folder: Path,
    say: Callable[[str], None],
) -> Costs:
    """Measure the costs on this machine, or read those that were measured before.

    Args:
        model: dense, in fp32; not changed.
        tokenizer: of the model.
        rows: features for the ranges of int8.
        units: of the model.
        layers: of its encoder that may be dropped; none: no layer is.
        setting: what to time.
        folder: of the files with results.
        say: is told what is being done.

    Raises:
        BuildError: there is no compiler for the sparse operators, or it failed.
        PlanError: the execution provider cannot be used.
        ExportError: the model cannot be exported.
    """

    def measure() -> str:
        say("Costs: timing layers and models, once for this machine, model and batch; about a minute for a MiniLM")
        with tempfile.TemporaryDirectory() as scratch:
            files = ModelFiles(model, tokenizer, rows[:BATCH_SIZE], Path(scratch), setting.engine)
            layer_files = write_layers(model, units, setting.engine, Path(scratch))
            dropped = [layers[index] for index in every_other(layers)]
            model_files = write_models(files, units, dropped, models_to_time(layer_files))
            found, change = _time(layer_files, model_files, setting, model.config.vocab_size)
        _tell(change, path, say)
        return _to_json(found)

    path = timings_file(folder, "costs", model, FORMAT, identity(setting.engine), setting, list(layers))
    return _from_json(kept_timings(path, measure, say))


def _inputs(option: Option, width: int, setting: Setting) -> np.ndarray:
    generator = np.random.default_rng(0)
    shape = (setting.batch, setting.length, width)
    if option.precision == "int8":
        return generator.integers(0, 256, shape).astype(np.uint8)
    return generator.normal(size=shape).astype(np.float32)


def _time(layers: Layers, models: Models, setting: Setting, vocabulary: int) -> tuple[Costs, float]:
    """Time all files in turns, so that a machine that is slower for a while does not favour any of them.

    Returns:
        The costs, and the variation of the dense fp32 model's times.
    """
    whole, mixed, shorter = models
    paths = [*whole.values(), *(path for files in mixed.values() for path in files.values()), *shorter.values()]
    runs = {path: _model_run(path, setting, vocabulary) for path in paths}
    for shape, files in layers.items():
        for option, path in files.items():
            loaded = session(path, setting.engine, setting.threads)
            runs[path] = partial(loaded.run, None, {"x": _inputs(option, shape[0], setting)})
    times = dict(zip(runs, all_times(list(runs.values()), ROUNDS, SECONDS, setting.threads), strict=True))
    costs = {path: Cost(statistics.median(mine), path.stat().st_size) for path, mine in times.items()}

    def of(files: Mapping[T, Path]) -> dict[T, Cost]:
        return {key: costs[path] for key, path in files.items()}

    found = Costs(
        {shape: of(files) for shape, files in layers.items()},
        of(whole),
        {precision: of(files) for precision, files in mixed.items()},
        of(shorter),
    )
    return found, variation(times[whole[Option("fp32")]])


def _tell(change: float, path: Path, say: Callable[[str], None]) -> None:
    """Say so if the speed of the machine changed while it was timed, by this fraction."""
    if change > UNSTEADY:
        say(
            f"Costs: this machine's speed changed by {change:.0%} meanwhile, and predictions are no more exact. "
            f"Delete {path} to have it timed again, at best with nothing else running on it"
        )


def time_files(paths: Sequence[Path], setting: Setting, vocabulary: int) -> list[float]:
    """Measure the milliseconds of model files, which take turns, on random tokens."""
    return take_turns([_model_run(path, setting, vocabulary) for path in paths], ROUNDS, SECONDS, setting.threads)


def _model_run(path: Path, setting: Setting, vocabulary: int) -> Callable[[], object]:
    loaded = session(path, setting.engine, setting.threads)
    return partial(loaded.run, None, random_inputs(loaded, setting.batch, setting.length, vocabulary))


def _to_json(costs: Costs) -> str:
    def table(values: Mapping[Option, Cost]) -> list:
        return [[asdict(option), asdict(cost)] for option, cost in values.items()]

    layers = [[shape, table(values)] for shape, values in costs.layers.items()]
    mixed = {
        precision: [[shape, asdict(cost)] for shape, cost in models.items()]
        for precision, models in costs.mixed.items()
    }
    shorter = {precision: asdict(cost) for precision, cost in costs.shorter.items()}
    data = {"layers": layers, "models": table(costs.models), "mixed": mixed, "shorter": shorter}
    return json.dumps(data, indent=1) + "\n"


def _from_json(text: str) -> Costs:
    def table(pairs: list) -> dict[Option, Cost]:
        return {Option(**option): Cost(**cost) for option, cost in pairs}

    data = json.loads(text)
    layers = {(shape[0], shape[1]): table(pairs) for shape, pairs in data["layers"]}
    mixed = {
        precision: {(shape[0], shape[1]): Cost(**cost) for shape, cost in pairs}
        for precision, pairs in data["mixed"].items()
    }
    shorter = {precision: Cost(**cost) for precision, cost in data["shorter"].items()}
    return Costs(layers, table(data["models"]), mixed, shorter)
