"""Does the ONNX file say what the PyTorch model says?

``export_onnx`` writes a model as ONNX and calls it done only after ONNX Runtime has given PyTorch's outputs on real
features. Everything happens on a copy in eager attention, fp32, on the CPU: the model in memory is not touched, the
zeros of a pruned model go into the file as they are. The file is made under a temporary name in the target directory
and renamed last, so that what bears the final name is always a checked model: the new one, or the one that was there.

The TorchScript exporter is used: its opset 14 graphs run in every engine we know, and it keeps both the batch and the
sequence axis dynamic. It records one run, hence the check on other shapes than the recorded one.

A quantized model becomes an int8 graph, in the form that the target engine is fast with (``onnx_quantization``), and is
compared with the fake-quantized model: each module tightly for itself, the outputs by their distribution.
"""

import copy
import logging
import math
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from sparsification.arguments import TARGETS
from sparsification.errors import SparsificationError
from sparsification.onnx_quantization import Recorder, has_vnni, module_differences, recorded_modules, tidy, to_int8
from sparsification.quantized_modules import ATTENTION, is_quantizing, quantized_modules, quantizers

logger = logging.getLogger(__name__)

ONNX_FILE = "model.onnx"
MIN_INT8_OPSET = 13  # before it, DequantizeLinear has one scale for a whole tensor
# How far an int8 graph may be from the fake-quantized model, measured on MiniLM-L6 (6 models, 2 targets):
MODULE_LIMIT = 1e-3  # each module for itself: up to 2e-5 when right; 0.2 for a scale that is 20 % off
MEAN_LIMIT = 0.25  # the outputs: up to 0.1 when right, and PyTorch's own after a change of 1e-5 up to 0.08

MAX_FILE_BYTES = 2**31 - 1  # protobuf holds no larger message
# ONNX Runtime's exceptions have no base class of their own.
_ORT_ERRORS = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)
# What the TorchScript exporter says on every BERT; the check afterwards proves what these only suspect.
_KNOWN_WARNINGS = (
    (DeprecationWarning, "You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, "The feature will be removed"),
    (UserWarning, "Exporting aten::index operator of advanced indexing"),
    (torch.jit.TracerWarning, "Converting a tensor to a Python boolean"),
)


class ExportError(SparsificationError, RuntimeError):
    """The export failed, or the exported model is not the PyTorch model. Nothing is left under the final name."""


@dataclass(frozen=True)
class ExportReport:
    """What was exported, and how well it was checked."""

    path: Path
    max_difference: float  # largest |ONNX Runtime - PyTorch| over all outputs at positions that are not padding
    mean_difference: float  # mean of the same in standard deviations of the output; of the worst output
    num_features: int  # how many rows of ``check_batches`` were compared
    size_bytes: int
    opset: int
    target: str
    quantized: bool  # whether it is an int8 graph
    cpu_note: str  # what a quantized model lacks on the CPU that exported it; mostly empty


def export_onnx(
    model: PreTrainedModel,
    output_dir: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    check_batches: Iterable[Mapping[str, Tensor]],
    opset: int = 14,
    tolerance: float = 1e-4,
    file_name: str = ONNX_FILE,
    target: str = "onnxruntime",
) -> ExportReport:
    """Write ``model`` as a checked ONNX file, its config and its tokenizer beside it.

    In a distributed run, call it on the main process only. ``model`` is the bare model, not a DDP wrapper of it.

    Args:
        model: any model whose named inputs are (batch, sequence) tensors. It is copied, never changed.
        output_dir: made if missing.
        tokenizer: saved beside the model if given.
        input_names: the arguments of ``model.forward`` that become the inputs of the graph.
        output_names: the fields of the model's output that become the outputs of the graph, (batch, sequence, ...).
        check_batches: real features, at least one batch; other keys than ``input_names`` are ignored. Batches of
            different sizes and lengths check more; a one-row, half-length piece of the first is checked anyhow.
            Consumed lazily, each batch once.
        opset: ONNX operator set; the exporter knows those up to 20, DeepSparse up to 18. A quantized model needs 13.
        tolerance: largest allowed absolute difference of a model that is not quantized, times the largest |output|
            where that is above 1. Positions whose ``attention_mask`` is 0 do not count.
        file_name: the model's name inside ``output_dir``.
        target: the engine whose form of an int8 graph a quantized model gets: "onnxruntime" (OpenVINO's, too) or
            "deepsparse". Both run in ONNX Runtime, where they are checked.

    Returns:
        The report of the check, which is logged as well.

    Raises:
        ExportError: the opset is none of the target's, a quantized model's ranges are not final, the model is too large
            for one file, an input or output is missing, the exporter, the checker or ONNX Runtime refuses the graph,
            an output differs (or is NaN, or has another shape), or the disk is full.
            ``output_dir/file_name`` is then what it was before.
    """
    output_dir = Path(output_dir)
    batches = iter(check_batches)
    first = next(batches, None)
    if first is None:
        raise ExportError("there is no feature to check the exported model with: check_batches is empty")
    first = _select(first, input_names)
    quantized = is_quantizing(model)
    _check_opset(opset, target, quantized)
    mean_limit = math.inf
    if quantized:
        _check_ranges(model)
        tolerance, mean_limit = math.inf, MEAN_LIMIT
    twin = _copy_for_export(model)
    smaller = {name: tensor[:1, : max(1, tensor.shape[1] // 2)] for name, tensor in first.items()}

    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        # In the target directory: a rename across file systems would be a copy, which can be cut short.
        with tempfile.TemporaryDirectory(prefix=".export-", dir=output_dir, ignore_cleanup_errors=True) as scratch:
            path = Path(scratch) / file_name
            if quantized:
                _write_int8(twin, path, first, smaller, output_names, opset, target)
            else:
                _write(twin, path, first, output_names, opset)
            # The half row has too few positions for a distribution.
            _compare(path, twin, [smaller], input_names, output_names, tolerance, math.inf)
            difference, mean_difference, num_features = _compare(
                path, twin, chain([first], batches), input_names, output_names, tolerance, mean_limit
            )
            size = path.stat().st_size
            twin.config.save_pretrained(scratch)
            if tokenizer is not None:
                tokenizer.save_pretrained(scratch)
            # The model comes last: once it is there, all of it is.
            for source in sorted(Path(scratch).iterdir(), key=lambda file: file.name == file_name):
                os.replace(source, output_dir / source.name)
    except OSError as error:
        raise ExportError(f"cannot export to {output_dir}: {error}") from error

    report = ExportReport(
        path=output_dir / file_name,
        max_difference=difference,
        mean_difference=mean_difference,
        num_features=num_features,
        size_bytes=size,
        opset=opset,
        target=target,
        quantized=quantized,
        cpu_note=_cpu_note(twin).strip() if quantized else "",
    )
    logger.info(
        "%s: %s%.1f MB, opset %d; ONNX Runtime %s on %d features, max difference %.1e%s",
        report.path,
        f"int8 for {target}, " if quantized else "",
        size / 1e6,
        opset,
        "follows fake-quantized PyTorch" if quantized else "equals PyTorch",
        num_features,
        difference,
        f", mean {mean_difference:.1%} of the outputs' standard deviation" if quantized else "",
    )
    if report.cpu_note:
        logger.warning("%s: %s", report.path, report.cpu_note)
    return report


class OnnxModel:
    """An ONNX model in ONNX Runtime on the CPU: tensors by name in, arrays out.

    Args:
        path: the ONNX file.
        output_names: which outputs, in which order; all in the graph's order by default.
        num_threads: to compute on; 0: as many as there are cores.

    Raises:
        ExportError: ONNX Runtime cannot load the file.
    """

    def __init__(self, path: str | Path, output_names: Sequence[str] | None = None, num_threads: int = 0) -> None:
        self.path = path
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        # 1 is fp32. By default it rounds the inputs of int8 weights to integers where the graph does not.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except _ORT_ERRORS as error:
            raise ExportError(f"ONNX Runtime cannot load {path}: {error}") from error
        self.input_names = [node.name for node in self._session.get_inputs()]
        self.output_names = list(output_names or [node.name for node in self._session.get_outputs()])

    def __call__(self, batch: Mapping[str, Tensor]) -> tuple[np.ndarray, ...]:
        """Run one batch.

        Args:
            batch: tensors by name, on any device; what is no input of the graph is ignored.

        Returns:
            The outputs, each (batch, sequence, ...) for a model of ``export_onnx``.

        Raises:
            ExportError: ONNX Runtime cannot run the batch, or it lacks an input of the graph.
        """
        feed = {name: tensor.numpy() for name, tensor in _select(batch, self.input_names).items()}
        try:
            return tuple(self._session.run(self.output_names, feed))
        except _ORT_ERRORS as error:
            raise ExportError(f"ONNX Runtime cannot run {self.path}: {error}") from error


class _NamedOutputs(nn.Module):
    """Positional tensors in, the named fields of a ``ModelOutput`` out: all that the exporter understands."""

    def __init__(self, model: PreTrainedModel, input_names: Sequence[str], output_names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.input_names = tuple(input_names)
        self.output_names = tuple(output_names)
        self.eval()  # The exporter gives each module the wrapper's mode back, and a new module is in training mode.

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(**dict(zip(self.input_names, inputs, strict=True)), return_dict=True)
        missing = [name for name in self.output_names if name not in outputs]
        if missing:
            raise ExportError(f"{type(self.model).__name__} has no output {missing[0]!r}; it has {list(outputs)}")
        return tuple(outputs[name] for name in self.output_names)


def _check_opset(opset: int, target: str, quantized: bool) -> None:
    if target not in TARGETS:
        raise ExportError(f"there is no target {target!r}, only {', '.join(TARGETS)}")
    if quantized and opset < MIN_INT8_OPSET:
        raise ExportError(f"opset {opset} cannot hold a quantized model: it needs {MIN_INT8_OPSET} or more")
    newest = TARGETS[target]
    if opset > newest and (quantized or target == "deepsparse"):
        reason = "DeepSparse loads" if target == "deepsparse" else "PyTorch's exporter knows"
        raise ExportError(f"opset {opset} is too new: {reason} {newest} and less")


def _check_ranges(model: PreTrainedModel) -> None:
    """Raise ExportError if the ranges of a quantizing model still move, or are not there."""
    unseen = [name for name, quantizer in quantizers(model).items() if not quantizer.observed]
    if unseen:
        more = f" and {len(unseen) - 1} more have" if len(unseen) > 1 else " has"
        raise ExportError(
            f"the quantizer {unseen[0]}{more} seen no data and no range: train or calibrate the model before the export"
        )
    moving = [name for name, quantizer in quantizers(model).items() if quantizer.observing]
    if moving:
        raise ExportError(
            f"the ranges of the quantized model still follow the data ({moving[0]} and {len(moving) - 1} more): "
            "training has to pass the recipe's disable_quantization_observer_epoch, or to finish, before the export"
        )


def _cpu_note(model: PreTrainedModel) -> str:
    """A sentence on what this CPU cannot do with a quantized model, or nothing."""
    right_factors = ("weight_quantizer", "matmul_quantizers.key", "matmul_quantizers.value")
    grids = [quantizer.grid for name, quantizer in quantizers(model).items() if name.endswith(right_factors)]
    if has_vnni() is not False or all(grid.bits < 8 for grid in grids):
        return ""
    return (
        " This CPU has no VNNI: sums of 8-bit products overflow on it, outputs can be wrong. Run the model on another, "
        "or train it with reduce_range: True in the recipe's QuantizationModifier."
    )


def _copy_for_export(model: PreTrainedModel) -> PreTrainedModel:
    """A copy in eager attention, fp32, eval mode, on the CPU."""
    num_bytes = 4 * sum(tensor.numel() for tensor in chain(model.parameters(), model.buffers()))
    if num_bytes > MAX_FILE_BYTES:
        raise ExportError(
            f"the model has {num_bytes / 2**30:.1f} GiB of fp32 weights; a single ONNX file holds at most "
            f"{MAX_FILE_BYTES / 2**30:.1f} GiB, and files with external data are not supported"
        )
    twin = copy.deepcopy(model)
    # Accelerate's mixed precision puts an autocasting forward on the instance: the export wants the class's own.
    for name in ("forward", "_original_forward"):
        vars(twin).pop(name, None)
    twin.cpu().float().eval().requires_grad_(False)
    if twin.config._attn_implementation != ATTENTION:  # quantized attention is eager itself
        twin.set_attn_implementation("eager")
    twin.config.architectures = [type(model).__name__]
    twin.config.dtype = torch.float32
    return twin


def _select(batch: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    missing = [name for name in names if name not in batch]
    if missing:
        raise ExportError(f"the features lack the model's input {missing[0]!r}; they have {sorted(batch)}")
    return {name: torch.as_tensor(batch[name]).detach().cpu() for name in names}


def _example(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two short rows to record a model on."""
    # A size of 1 would be recorded as broadcasting, and a mask without padding might be recorded as no mask.
    example = {name: torch.cat([tensor, tensor])[:2, :16] for name, tensor in batch.items()}
    if "attention_mask" in example:
        example["attention_mask"][0, -1] = 0
    return example


def _write(
    model: PreTrainedModel, path: Path, batch: dict[str, Tensor], output_names: Sequence[str], opset: int
) -> None:
    """Record the model on two short rows, write it, and have the ONNX checker read it."""
    example = _example(batch)
    axes = {name: {0: "batch", 1: "sequence"} for name in (*example, *output_names)}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            for category, message in _KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message=message, category=category)
            torch.onnx.export(
                _NamedOutputs(model, list(example), output_names),
                tuple(example.values()),
                path,
                input_names=list(example),
                output_names=list(output_names),
                dynamic_axes=axes,
                opset_version=opset,
                dynamo=False,
            )
    except ExportError:
        raise
    except RuntimeError as error:
        raise ExportError(f"PyTorch cannot export {type(model).__name__} at opset {opset}: {error}") from error
    _check(path)


def _check(path: Path) -> None:
    """Have the ONNX checker read a file."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is no valid ONNX: {error}") from error


def _write_int8(
    model: PreTrainedModel,
    path: Path,
    batch: dict[str, Tensor],
    rows: dict[str, Tensor],
    output_names: Sequence[str],
    opset: int,
    target: str,
) -> None:
    """Write a fake-quantized model as an int8 graph, and compare its modules on a few rows."""
    int8 = copy.deepcopy(model)
    to_int8(int8, in_integers=target == "deepsparse")
    example = _example(batch)
    with torch.no_grad():
        _NamedOutputs(int8, list(example), output_names)(*example.values())  # are they there?
        recorder = Recorder(int8, recorded_modules(int8, dict(quantized_modules(model))))
        int8(**example)
    _write(int8, path, batch, [*output_names, *recorder.tensors], opset)

    proto = onnx.load(path)
    tidy(proto.graph)
    for output in proto.graph.output[len(output_names) :]:
        output.type.tensor_type.ClearField("shape")  # that of the example
    onnx.save(proto, path)
    exported = OnnxModel(path)
    tensors = dict(zip(exported.output_names, map(torch.from_numpy, exported(rows)), strict=True))
    with torch.no_grad():
        differences = module_differences(model, recorder.calls, tensors)
    for name, difference in differences.items():
        # Written so that NaN, which compares False with everything, is an error.
        if not difference <= MODULE_LIMIT:
            raise ExportError(
                f"ONNX Runtime's {name} differs from the fake-quantized one by {difference:.2e} of its output's mean; "
                f"allowed is {MODULE_LIMIT:.0e}. The ONNX model was not kept.{_cpu_note(model)}"
            )
    del proto.graph.output[len(output_names) :]
    tidy(proto.graph)  # again: Identity may have stood before what was recorded
    onnx.save(proto, path)
    _check(path)


def _compare(
    path: Path,
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, Tensor]],
    input_names: Sequence[str],
    output_names: Sequence[str],
    tolerance: float,
    mean_limit: float,
) -> tuple[float, float, int]:
    """Largest and mean difference between ONNX Runtime and PyTorch over the batches, and the number of rows."""
    reference = _NamedOutputs(model, input_names, output_names)
    largest, num_features = 0.0, 0
    sums = {name: np.zeros(4) for name in output_names}
    exported = OnnxModel(path, output_names)
    for inputs in (_select(batch, input_names) for batch in batches):
        actual = exported(inputs)
        with torch.no_grad():
            expected = reference(*inputs.values())
        num_features += len(expected[0])
        for name, ours, theirs in zip(output_names, expected, map(torch.from_numpy, actual), strict=True):
            mask = inputs.get("attention_mask")
            largest = max(largest, _difference(name, ours, theirs, mask, tolerance))
            sums[name] += _sums(_at_tokens(ours, mask), _at_tokens(theirs, mask))
    means = {name: _mean_difference(*values) for name, values in sums.items()}
    worst = max(means, key=means.get)
    if not means[worst] <= mean_limit:
        raise ExportError(
            f"ONNX Runtime's {worst} differ from the fake-quantized model's by {means[worst]:.2f} of their standard "
            f"deviation in the mean; allowed is {mean_limit:.2f}. The ONNX model was not kept.{_cpu_note(model)}"
        )
    return largest, means[worst], num_features


def _at_tokens(output: Tensor, mask: Tensor | None) -> Tensor:
    """An output where the mask is not 0."""
    return output[mask != 0] if mask is not None and mask.shape == output.shape[:2] else output


def _sums(expected: Tensor, actual: Tensor) -> np.ndarray:
    """Over all numbers: how many, the differences, the expected numbers and their squares."""
    expected, actual = expected.double(), actual.double()
    return np.array(
        [expected.numel(), (actual - expected).abs().sum(), expected.sum(), expected.square().sum()], dtype=float
    )


def _mean_difference(count: float, differences: float, total: float, squares: float) -> float:
    """The mean difference in standard deviations, from ``_sums``."""
    if differences == 0:
        return 0.0
    deviation = math.sqrt(max(squares / count - (total / count) ** 2, 0.0))
    return differences / count / deviation if deviation else math.inf


def _difference(name: str, expected: Tensor, actual: Tensor, mask: Tensor | None, tolerance: float) -> float:
    """Max |actual - expected| where the mask is not 0; ExportError if that is no small number."""
    shape = tuple(expected.shape)
    if tuple(actual.shape) != shape:
        raise ExportError(f"ONNX Runtime gives {name} the shape {tuple(actual.shape)}, PyTorch {shape}")
    expected, actual = _at_tokens(expected, mask), _at_tokens(actual, mask)
    if expected.numel() == 0:
        return 0.0
    difference = (actual - expected).abs().max().item()
    limit = tolerance * max(1.0, expected.abs().max().item())
    # Written so that NaN, which compares False with everything, is an error.
    if not difference <= limit:
        raise ExportError(
            f"ONNX Runtime's {name} differ from PyTorch's by up to {difference:.2e} on features of shape {shape}; "
            f"allowed is {limit:.2e}. The ONNX model was not kept."
        )
    return difference
