"""ONNX files of a whole model with zeros in its units, to be timed.

The model is exported once for each number format, with 30 % of the weights of its units at zero: in this way their
layers are found in the file, whatever their names are there. The time of the dense operators does not depend on zeros.
Further weights are set to zero in the file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from sparsification.cpu import weight_bits
from sparsification.plan.apply import apply_recipe
from sparsification.plan.engines import OPERATORS, served
from sparsification.plan.units import BLOCKS, DENSE, MASK_TYPES, UNSTRUCTURED, Option, Unit, options
from sparsification.pruning import masks
from sparsification.runtime.graph import Graph
from sparsification.runtime.rewrite.float_linear import FloatLinear, find_float_linears
from sparsification.runtime.rewrite.linear import Linear, find_linears

# Files of whole models by option, of mixed ones by number format and shape, of shorter ones by number format.
Models = tuple[dict[Option, Path], dict[str, dict[tuple[int, int], Path]], dict[str, Path]]
PATTERNS_OF_MODELS = {"fp32": UNSTRUCTURED, "int8": BLOCKS}  # of the sparse ones
LOWEST = 0.7  # two models give the line of the costs: the sparsest one, and the least sparse one from here on
_MARK = 0.3
_MARKED_DENSITY = 0.8  # rounding to int8 makes fewer zeros
RUN = "modifiers:\n  - !EpochRangeModifier {start_epoch: 0.0, end_epoch: 1.0}\n"
_QUANTIZATION = """\
  - !QuantizationModifier
    start_epoch: {start:g}
    disable_quantization_observer_epoch: {frozen:g}
    num_calibration_steps: 64
    reduce_range: {reduce_range}
    scheme:
      input_activations: {{num_bits: 8, symmetric: false}}
      weights: {{num_bits: 8, symmetric: true, strategy: channel}}
"""
_DROPPING = """\
  - !LayerPruningModifier
    layers: [{}]
"""
_PRUNING = f"""\
  - !GMPruningModifier
    params: [{{}}]
    init_sparsity: 0.0
    final_sparsity: {_MARK}
    start_epoch: 0.0
    end_epoch: 0.0
"""


def quantization(start: float = 0.0, frozen: float = 0.5) -> str:
    """The modifier of a recipe that quantizes for this machine.

    Args:
        start: epoch from which modules are fake-quantized.
        frozen: epoch from which their ranges do not change.
    """
    return _QUANTIZATION.format(start=start, frozen=frozen, reduce_range=str(weight_bits() < 8).lower())


def dropping(layers: Sequence[str]) -> str:
    """The modifier of a recipe that drops encoder layers; empty for none."""
    return _DROPPING.format(", ".join(layers)) if layers else ""


class ModelFiles:
    """Writes the files of one model.

    Args:
        model: dense, in fp32; not changed.
        tokenizer: of the model.
        rows: features for the ranges of int8.
        folder: for the files.
        engine: that loads the files.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Mapping[str, list[int]]],
        folder: Path,
        engine: str = OPERATORS,
    ):
        self._model, self._tokenizer, self._rows, self._folder = model, tokenizer, rows, folder
        self._engine = engine
        self._dense: dict[tuple, Path] = {}  # by number format and the layers that are dropped
        self._written = 0

    def write(self, units: Sequence[Unit], chosen: Sequence[Option], dropped: Sequence[str] = ()) -> Path:
        """Write the file of a model with an option for each unit, all of one number format.

        Args:
            units: of the layers that are not dropped.
            chosen: their options.
            dropped: names of the encoder layers that are dropped.

        Raises:
            ExportError: the model cannot be exported.
            SparseGraphError: no layer is sparse enough.
        """
        (precision,) = {option.precision for option in chosen}
        key = precision, *dropped
        if key not in self._dense:
            pruning = _PRUNING.format(", ".join(name for unit in units for name in unit.weights))
            recipe = RUN + dropping(dropped) + pruning + (quantization() if precision == "int8" else "")
            folder = self._folder / f"dense {len(self._dense)}"
            self._dense[key] = apply_recipe(self._model, self._tokenizer, recipe, self._rows, folder, sparse=False)
        dense = self._dense[key]
        if all(option.pattern == DENSE for option in chosen):
            return dense
        model = onnx.load(dense)
        by_weight = [option for unit, option in zip(units, chosen, strict=True) for _ in unit.weights]
        zero(model, marked_layers(model), by_weight)
        self._written += 1
        source = self._folder / f"model {self._written}.onnx"
        onnx.save(model, source)
        return served(source, self._engine)


def models_to_time(layers: Mapping[tuple[int, int], Mapping[Option, Path]]) -> list[Option]:
    """Of each number format the dense model and two sparse ones, if there are two sparsities that pay in each shape."""
    chosen = []
    for precision, pattern in PATTERNS_OF_MODELS.items():
        chosen.append(Option(precision))
        common = [
            option
            for option in options(precision)
            if option.pattern == pattern
            and option.sparsity >= LOWEST
            and all(option in table for table in layers.values())
        ]
        if len(common) > 1:
            chosen += [common[0], common[-1]]
    return chosen


def write_models(files: ModelFiles, units: Sequence[Unit], dropped: Sequence[str], chosen: Sequence[Option]) -> Models:
    """Write models with an option in all units, mixed ones, and shorter ones; see ``costs.Costs``.

    Args:
        files: of the model.
        units: of the model.
        dropped: names of the encoder layers that shorter models do without; none: there are no shorter ones.
        chosen: the options of whole models.
    """
    whole = {option: files.write(units, [option] * len(units)) for option in chosen}
    mixed: dict[str, dict[tuple[int, int], Path]] = {}
    shorter = {}
    kept = [unit for unit in units if not unit.is_inside(dropped)]
    for precision, option in {option.precision: option for option in chosen if option.pattern != DENSE}.items():
        dense = Option(precision)
        mixed[precision] = {
            shape: files.write(units, [dense if unit.shape == shape else option for unit in units])
            for shape in dict.fromkeys(unit.shape for unit in units)
        }
        if dropped:
            shorter[precision] = files.write(kept, [option] * len(kept), dropped)
    return whole, mixed, shorter


def marked_layers(model: onnx.ModelProto) -> list[Linear | FloatLinear]:
    """The linear layers of an exported model of which 30 % of the weights are zero, in the order of the graph."""
    graph = Graph(model)
    layers: list[Linear | FloatLinear] = [*find_linears(graph).values(), *find_float_linears(graph).values()]
    return [layer for layer in layers if layer.density <= _MARKED_DENSITY]


def zero(model: onnx.ModelProto, layers: Sequence[Linear | FloatLinear], chosen: Sequence[Option]) -> None:
    """Set the smallest weights of layers to zero, as many as their options say.

    Args:
        model: changed in place.
        layers: of the model.
        chosen: the option of each layer; a dense one changes nothing.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for layer, option in zip(layers, chosen, strict=True):
        if option.pattern == DENSE:
            continue
        scores = torch.from_numpy(np.ascontiguousarray(layer.weight)).float().abs()
        keep = masks.compute_mask(scores, option.sparsity, MASK_TYPES[option.pattern]).numpy()
        array = np.ascontiguousarray((layer.weight * keep).T)
        tensors[layer.name].CopyFrom(numpy_helper.from_array(array, layer.name))


def random_inputs(
    session: onnxruntime.InferenceSession, batch: int, length: int, vocabulary: int
) -> dict[str, np.ndarray]:
    """Inputs (batch, length) of a session: token ids, a mask of ones, and zeros for everything else."""
    generator = np.random.default_rng(0)
    filled = {
        "input_ids": generator.integers(0, vocabulary, (batch, length)),
        "attention_mask": np.ones((batch, length)),
    }
    zeros = np.zeros((batch, length))
    return {node.name: filled.get(node.name, zeros).astype(np.int64) for node in session.get_inputs()}
