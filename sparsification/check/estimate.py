"""Estimate of a model at the end of a recipe: parameters, zeros, and sizes of the exported files.

The manager initializes the model as in training, with the same errors, and gives it the structure of the run's last
step. Zeros are counted from the final target sparsity. The size of a file is that of its weights; the graph adds a few
kilobytes per layer.
"""

import contextlib
import math
import pickle
from collections import Counter
from dataclasses import dataclass
from functools import partial

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForQuestionAnswering, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    MODEL_MAPPING_NAMES,
)

from sparsification.base import TrainingStep
from sparsification.check.timeline import Timeline
from sparsification.errors import SparsificationError
from sparsification.manager import ScheduledModifierManager
from sparsification.model_io import named_class
from sparsification.quantization.attention import AttentionQuantizers
from sparsification.quantization.fake_quantize import FakeQuantize
from sparsification.quantization.modules import fake_quant_enabled, fake_quantized_modules
from sparsification.quiet import errors_only
from sparsification.saved_weights import check_saved_shapes, has_weights
from sparsification.targets import ALL, TargetError, Targets

# Classes whose head fine-tuning replaces, and those without a head.
PRETRAINED = (
    MODEL_MAPPING_NAMES,
    MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)

# Bits per non-zero weight after gzip (deflate), by bytes before. In fp32, exponents repeat; in int8, rare large weights
# set the scale, so that most integers are small.
VALUE_BITS = {4: 29.7, 1: 6.8}
# Cost of the positions of zeros in deflate, as a multiple of their entropy. Measured on normal weights with zeros at
# random positions; tests/check/test_estimate.py repeats the measurement.
POSITION_BITS = {4: 3.0, 1: 1.9}


class ModelError(SparsificationError, ValueError):
    """The model of ``--model`` cannot be loaded."""


@dataclass(frozen=True)
class Match:
    """Parameters that one pattern of one modifier matches."""

    number: int  # of the modifier, from 1, by time
    pattern: str
    names: list[str]
    num_weights: int


@dataclass(frozen=True)
class ModelEstimate:
    """A model before and after a recipe."""

    name: str
    has_weights: bool  # False: random weights
    matches: list[Match]
    sampling_bytes: dict[int, int]  # memory for the sampled gradients of a mask, by the number of the modifier
    dropped: dict[str, list[int]]  # indices by the name of the list of layers
    quantized: dict[str, int]  # number of modules by kind
    num_parameters: tuple[int, int]  # before, after
    num_zeros: int
    sizes: dict[str, tuple[float, float]]  # by number format: bytes of the ONNX file, uncompressed and gzipped


def build_model(name: str) -> tuple[PreTrainedModel, bool]:
    """Build a model, with its weights if a folder contains them, else with random ones.

    Args:
        name: a folder, or a hub name, of which only the configuration is read.

    Returns:
        The model in fp32, of the class that the configuration names, or for question answering if that class is one of
        pretraining; and whether it has its own weights.

    Raises:
        ModelError: the model does not exist, or its configuration does not fit its weights or the memory.
    """
    try:
        with errors_only():
            config = AutoConfig.from_pretrained(name)
            kind = _fine_tuned_class(config)
            if not has_weights(name):
                return _build(kind, config).float(), False
            check_saved_shapes(name, config, partial(_build, kind))
            loader = kind or AutoModelForQuestionAnswering
            return loader.from_pretrained(name, config=config, dtype=torch.float32), True
    except (OSError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        raise ModelError(f"--model {name}: {_first_line(error)}") from error
    except RuntimeError as error:  # of torch: a damaged file, or sizes that do not fit into memory
        reason = "cannot be loaded" if has_weights(name) else "is too large"
        raise ModelError(f"--model {name}: the model {reason} ({_first_line(error)})") from error


def _build(kind: type[PreTrainedModel] | None, config: PreTrainedConfig) -> PreTrainedModel:
    return AutoModelForQuestionAnswering.from_config(config) if kind is None else kind(config)


def _fine_tuned_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """Return the class that a configuration names, None if fine-tuning for question answering replaces its head."""
    kind = named_class(config)
    if kind is None or config.model_type not in MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES:
        return kind
    found = (names.get(config.model_type, ()) for names in PRETRAINED)
    pretrained = {name for names in found for name in ([names] if isinstance(names, str) else names)}
    return None if kind.__name__ in pretrained else kind


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def estimate_model(
    timeline: Timeline, model: PreTrainedModel, targets: Targets, name: str, has_weights: bool
) -> ModelEstimate:
    """Estimate a model at the end of a recipe.

    Args:
        timeline: of the recipe.
        model: changed in place.
        targets: of the model.
        name: of the model, for the report.
        has_weights: whether the model has its own weights.

    Raises:
        ManagerError: the recipe does not fit the model.
    """
    manager = ScheduledModifierManager(timeline.summary.recipe)
    before = sum(parameter.numel() for parameter in model.parameters())
    end = timeline.training_step(timeline.length or timeline.shown + 1)
    last_step = TrainingStep(end.step - 1, end.steps_per_epoch)
    dropped: dict[str, list[int]] = {}
    for modifier in timeline.modifiers:
        if modifier.layer_patterns and modifier.is_active(last_step):
            with contextlib.suppress(TargetError):  # the manager raises it below
                dropped |= targets.layers(modifier.layer_patterns)
    manager.initialize(model)
    manager.on_train_begin(last_step)
    matches = [
        _match(timeline.number(modifier), pattern, targets)
        for modifier in timeline.modifiers
        for pattern in modifier.parameter_patterns
    ]
    costs = {timeline.number(modifier): modifier.sampled_gradients() for modifier in timeline.modifiers}
    zeros = _zeros_at_end(timeline, targets) | _thin(timeline, targets)
    return ModelEstimate(
        name=name,
        has_weights=has_weights,
        matches=matches,
        sampling_bytes={number: cost.num_bytes for number, cost in costs.items() if cost is not None},
        dropped=dropped,
        quantized=_count_quantized(model),
        num_parameters=(before, sum(parameter.numel() for parameter in model.parameters())),
        num_zeros=sum(zeros.values()),
        sizes=_file_sizes(model, targets, zeros),
    )


def _count_quantized(model: PreTrainedModel) -> dict[str, int]:
    """Count the modules that are fake-quantized at the end of the run, by kind."""
    counts: Counter[str] = Counter()
    if fake_quant_enabled(model):
        for _, module in fake_quantized_modules(model):
            kind = "attention" if isinstance(module, AttentionQuantizers) else type(module).__name__
            counts[kind.removeprefix("FakeQuantized")] += 1
    return dict(counts)


def _file_sizes(model: PreTrainedModel, targets: Targets, zeros: dict[str, int]) -> dict[str, tuple[float, float]]:
    """Estimate the bytes of the weights by number format, uncompressed and gzipped."""
    formats = {"fp32": dict.fromkeys(map(id, model.parameters()), 4)}
    if fake_quant_enabled(model):
        int8_weights = [
            module.weight
            for _, module in fake_quantized_modules(model)
            if isinstance(getattr(module, "weight_quantizer", None), FakeQuantize)
        ]
        formats["int8"] = formats["fp32"] | dict.fromkeys(map(id, int8_weights), 1)
    names = {id(parameter): name for name, parameter in targets.parameters(ALL).items()}
    sizes = {}
    for label, bytes_each in formats.items():
        plain = gzipped = 0.0
        for parameter in model.parameters():
            count, width = parameter.numel(), bytes_each[id(parameter)]
            plain += count * width
            gzipped += gzipped_bytes(count, zeros.get(names[id(parameter)], 0) / count, width)
        sizes[label] = plain, gzipped
    return sizes


def gzipped_bytes(num_weights: int, sparsity: float, bytes_each: int) -> float:
    """Estimate the gzipped size of a weight with zeros at random positions.

    The estimate adds a constant number of bits per non-zero weight and a multiple of the entropy of the positions.

    Args:
        num_weights: number of elements.
        sparsity: fraction of zeros, in [0, 1].
        bytes_each: 4 for fp32, 1 for int8.

    Returns:
        Bytes. The error is at most 10 % for normal weights with up to 95 % zeros; trained weights are a few percent
        smaller.
    """
    entropy = -sum(share * math.log2(share) for share in (sparsity, 1 - sparsity) if share > 0)
    return num_weights * ((1 - sparsity) * VALUE_BITS[bytes_each] + POSITION_BITS[bytes_each] * entropy) / 8


def _match(number: int, pattern: str, targets: Targets) -> Match:
    matched = targets.parameters(pattern, strict=False)
    return Match(number, pattern, list(matched), sum(parameter.numel() for parameter in matched.values()))


def _thin(timeline: Timeline, targets: Targets) -> dict[str, int]:
    """Remove pruned neurons as at the end of training, and count the zeros that remain in the thinned weights."""
    thinning = [modifier for modifier in timeline.modifiers if modifier.removes_units]
    if not thinning:
        return {}
    masked = [name for modifier in timeline.modifiers if timeline.acts(modifier) for name in modifier.zero_units()]
    for modifier in thinning:
        modifier.finalize()
    parameters = targets.parameters(ALL)
    return {name: int((parameters[name] == 0).sum()) for name in masked if parameters[name].dim() == 2}


def _zeros_at_end(timeline: Timeline, targets: Targets) -> dict[str, int]:
    """Count the zeros of each weight that a mask holds at the end of the run."""
    end = timeline.length or math.inf
    present = targets.parameters(ALL)
    zeros: dict[str, int] = {}  # by weight, of the last modifier that masked it
    held: set[str] = set()
    for modifier in timeline.modifiers:  # by their start
        if timeline.acts(modifier):
            masked = modifier.zero_counts_at(end, zeros)
            zeros |= masked
            held = held | set(masked) if modifier.mask_end >= end else held - set(masked)
    return {name: count for name, count in zeros.items() if name in held and name in present}
