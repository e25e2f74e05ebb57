"""What will be left of a model when a recipe has been through with it, and how large will its files be?

The manager initializes the model as it does in training, with the same errors, and puts it into the structure of the
run's last step. Zeros are counted from the target sparsity by then. A file's size is that of its weights: the graph
adds some kilobytes for each layer.
"""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch
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
from sparsification.targets import ALL, TargetError, Targets

# Heads, or none, that fine-tuning replaces.
PRETRAINED = (
    MODEL_MAPPING_NAMES,
    MODEL_FOR_PRETRAINING_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")

# What gzip (deflate) makes of one weight that is not zero, in bits. In fp32 it saves what exponents repeat, in int8
# what a normal distribution leaves unused, since its rare large numbers set the scale.
VALUE_BITS = {4: 29.7, 1: 6.8}
# Saying where the zeros are costs deflate this multiple of the places' entropy. Measured on normal weights with zeros
# at random places; `tests/check/test_estimate.py` repeats it.
PLACE_BITS = {4: 3.0, 1: 1.9}


class ModelError(SparsificationError, ValueError):
    """There is no such model."""


@dataclass(frozen=True)
class Match:
    """What one pattern of one modifier matches."""

    number: int  # of the modifier, by time
    pattern: str
    names: list[str]
    num_weights: int


@dataclass(frozen=True)
class Forecast:
    """A model before and after."""

    name: str
    has_weights: bool  # else they are random
    matches: list[Match]
    dropped: dict[str, list[int]]  # indices by the name of the list of layers
    quantized: dict[str, int]  # number of modules by kind
    num_parameters: tuple[int, int]  # before, after
    num_zeros: int
    sizes: dict[str, tuple[float, float]]  # by number format: bytes of the ONNX file, plain and gzipped


def build_model(name: str) -> tuple[PreTrainedModel, bool]:
    """Make a model, with its weights if it lies in a folder and they with it, else with random ones.

    Args:
        name: a folder, or a hub name, of which only the configuration is read.

    Returns:
        The model in fp32, of the class that the configuration names, or for question answering where that class is
        pretrained only; and whether the weights are its own.

    Raises:
        ModelError: there is none.
    """
    has_weights = any((Path(name) / file).is_file() for file in WEIGHT_FILES)
    try:
        with errors_only():
            config = AutoConfig.from_pretrained(name)
            kind = _fine_tuned_class(config)
            if has_weights:
                kind = kind or AutoModelForQuestionAnswering
                return kind.from_pretrained(name, config=config, dtype=torch.float32), True
            if kind is not None:
                return kind(config).float(), False
            return AutoModelForQuestionAnswering.from_config(config, dtype=torch.float32), False
    except (OSError, ValueError) as error:
        raise ModelError(f"--model {name}: {_first_line(error)}") from error
    except RuntimeError as error:
        # Transformers compares the sizes before it allocates; a configuration alone may claim anything.
        reason = "its weights are not of the sizes that config.json names" if has_weights else "it is too large"
        raise ModelError(f"--model {name}: {reason} ({_first_line(error)})") from error


def _fine_tuned_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class that a configuration names; None where fine-tuning for question answering will put another head on."""
    kind = named_class(config)
    if kind is None or config.model_type not in MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES:
        return kind
    found = (names.get(config.model_type, ()) for names in PRETRAINED)
    pretrained = {name for names in found for name in ([names] if isinstance(names, str) else names)}
    return None if kind.__name__ in pretrained else kind


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def forecast(timeline: Timeline, model: PreTrainedModel, targets: Targets, name: str, has_weights: bool) -> Forecast:
    """Lead a model to the end of a recipe's run.

    Args:
        timeline: of the recipe.
        model: is changed.
        targets: the model's names.
        name: what to call it.
        has_weights: whether zeros in its weights mean anything.

    Raises:
        ManagerError: the recipe does not fit the model.
    """
    manager = ScheduledModifierManager(timeline.summary.recipe)
    before = sum(parameter.numel() for parameter in model.parameters())
    end = timeline.training_step(timeline.length or timeline.shown + 1)
    last_step = TrainingStep(end.step - 1, end.steps_per_epoch)
    dropped = {}
    for modifier in timeline.modifiers:
        if modifier.layer_patterns and modifier.is_active(last_step):
            with contextlib.suppress(TargetError):  # the manager tells it below
                dropped |= targets.layers(modifier.layer_patterns)
    manager.initialize(model)
    manager.on_train_begin(last_step)
    matches = [
        _match(timeline.number(modifier), pattern, targets)
        for modifier in timeline.modifiers
        for pattern in modifier.parameter_patterns
    ]
    zeros = _zeros_at_end(timeline, targets) | _thin(timeline, targets)
    quantized: dict[str, int] = {}
    formats = {"fp32": dict.fromkeys(map(id, model.parameters()), 4)}
    if fake_quant_enabled(model):
        formats["int8"] = dict(formats["fp32"])
        for _, module in fake_quantized_modules(model):
            kind = "attention" if isinstance(module, AttentionQuantizers) else type(module).__name__
            kind = kind.removeprefix("FakeQuantized")
            quantized[kind] = quantized.get(kind, 0) + 1
            if isinstance(getattr(module, "weight_quantizer", None), FakeQuantize):
                formats["int8"][id(module.weight)] = 1
    names = {id(parameter): name for name, parameter in targets.parameters(ALL).items()}
    sizes = {}
    for label, num_bytes in formats.items():
        plain = sum(parameter.numel() * num_bytes[id(parameter)] for parameter in model.parameters())
        gzipped = sum(
            gzipped_bytes(p.numel(), zeros.get(names[id(p)], 0) / p.numel(), num_bytes[id(p)])
            for p in model.parameters()
        )
        sizes[label] = float(plain), gzipped
    return Forecast(
        name=name,
        has_weights=has_weights,
        matches=matches,
        dropped=dropped,
        quantized=quantized,
        num_parameters=(before, sum(parameter.numel() for parameter in model.parameters())),
        num_zeros=sum(zeros.values()),
        sizes=sizes,
    )


def gzipped_bytes(num_weights: int, sparsity: float, bytes_each: int) -> float:
    """Estimate what gzip makes of a weight with zeros at random places.

    Each weight that is left costs its bits, and the places of the zeros a multiple of their entropy.

    Args:
        num_weights: how many numbers it has.
        sparsity: fraction of zeros, in [0, 1].
        bytes_each: 4 for fp32, 1 for int8.

    Returns:
        Bytes; 10 % off at most for normal weights with up to 95 % zeros. Trained weights repeat more and come out
        some percent smaller.
    """
    entropy = -sum(share * math.log2(share) for share in (sparsity, 1 - sparsity) if share > 0)
    return num_weights * ((1 - sparsity) * VALUE_BITS[bytes_each] + PLACE_BITS[bytes_each] * entropy) / 8


def _match(number: int, pattern: str, targets: Targets) -> Match:
    matched = targets.parameters(pattern, strict=False)
    return Match(number, pattern, list(matched), sum(parameter.numel() for parameter in matched.values()))


def _thin(timeline: Timeline, targets: Targets) -> dict[str, int]:
    """Take neurons out as the end of training will, and count the zeros that stay in what lost rows or columns."""
    thinning = [modifier for modifier in timeline.modifiers if modifier.removes_units]
    pruning = [modifier for modifier in timeline.modifiers if modifier.masks_units and timeline.acts(modifier)]
    if not thinning:
        return {}
    for modifier in pruning:
        modifier.apply_one_shot()
    for modifier in thinning:
        modifier.finalize()
    parameters = targets.parameters(ALL)
    masked = [name for modifier in pruning for name in modifier.pruned_names()]
    return {name: int((parameters[name] == 0).sum()) for name in masked if parameters[name].dim() == 2}


def _zeros_at_end(timeline: Timeline, targets: Targets) -> dict[str, int]:
    """Zeros in each weight that something holds at zero when the run is over."""
    end = timeline.length or math.inf
    present = targets.parameters(ALL)
    zeros: dict[str, int] = {}  # of weights that are held, or were last
    held: set[str] = set()
    for modifier in timeline.modifiers:  # by their start
        if timeline.acts(modifier):
            masked = modifier.zero_counts_at(end, zeros)
            zeros |= masked
            held = held | set(masked) if modifier.mask_end >= end else held - set(masked)
    return {name: count for name, count in zeros.items() if name in held and name in present}
