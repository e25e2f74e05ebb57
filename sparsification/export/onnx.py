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
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import onnx
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from sparsification.atomic_io import EXPORTING, move_files
from sparsification.export.int8 import ActivationRecorder, deduplicate, module_differences, recorded_modules, to_int8
from sparsification.export.targets import TARGETS
from sparsification.export.verify import MEAN_LIMIT, ExportError, NamedOutputs, OnnxModel, compare, cpu_note, select
from sparsification.quantization.attention import ATTENTION
from sparsification.quantization.modules import (
    fake_quant_enabled,
    fake_quantized_modules,
    leave_in_fp32,
    quantizers,
    uncalled_modules,
)
from sparsification.runtime.convert import SPARSE_FILE

logger = logging.getLogger(__name__)

ONNX_FILE = "model.onnx"
MIN_INT8_OPSET = 13  # before it, DequantizeLinear has one scale for a whole tensor
# How far an int8 graph may be from the fake-quantized model, measured on MiniLM-L6 (6 models, 2 targets):
MODULE_LIMIT = 1e-3  # each module for itself: up to 2e-5 when right; 0.2 for a scale that is 20 % off

# What the exporter, which records one run, cannot follow; by model type.
UNRECORDABLE = {
    "longformer": "how many windows and global tokens its attention has differs from batch to batch, and the exporter "
    "records those of one",
}
MAX_FILE_BYTES = 2**31 - 1  # protobuf holds no larger message
# What the TorchScript exporter says on every BERT; the check afterwards proves what these only suspect.
_KNOWN_WARNINGS = (
    (DeprecationWarning, "You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, "The feature will be removed"),
    (UserWarning, "Exporting aten::index operator of advanced indexing"),
    (torch.jit.TracerWarning, "Converting a tensor to a Python boolean"),
)


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
        ExportError: the model is of a kind that cannot be recorded, the opset is none of the target's, a quantized
            model's ranges are not final, the model is too large for one file, an input or output is missing, the
            exporter, the checker or ONNX Runtime refuses the graph, an output differs (or is NaN, or has another
            shape), or the disk is full. ``output_dir/file_name`` is then what it was before.
    """
    refuse_unrecordable(model)
    output_dir = Path(output_dir)
    batches = iter(check_batches)
    first = next(batches, None)
    if first is None:
        raise ExportError("there is no feature to check the exported model with: check_batches is empty")
    first = select(first, input_names)
    quantized = fake_quant_enabled(model)
    _check_opset(opset, target, quantized)
    mean_limit = math.inf
    twin = _copy_for_export(model)
    if quantized:
        _leave_uncalled(twin, first)
        _check_ranges(twin)
        tolerance, mean_limit = math.inf, MEAN_LIMIT
    smaller = {name: tensor[:1, : max(1, tensor.shape[1] // 2)] for name, tensor in first.items()}

    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for left_over in output_dir.glob(f"{EXPORTING}*"):  # by a run that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        # In the target directory: a rename across file systems would be a copy, which can be cut short.
        with tempfile.TemporaryDirectory(prefix=EXPORTING, dir=output_dir, ignore_cleanup_errors=True) as scratch:
            path = Path(scratch) / file_name
            if quantized:
                _write_int8(twin, path, first, smaller, output_names, opset, target)
            else:
                _write(twin, path, first, output_names, opset)
            # The half row has too few positions for a distribution.
            compare(path, twin, [smaller], input_names, output_names, tolerance, math.inf)
            difference, mean_difference, num_features = compare(
                path, twin, chain([first], batches), input_names, output_names, tolerance, mean_limit
            )
            size = path.stat().st_size
            twin.config.save_pretrained(scratch)
            if tokenizer is not None:
                tokenizer.save_pretrained(scratch)
            (output_dir / SPARSE_FILE).unlink(missing_ok=True)  # made of the file that goes now
            # The model comes last: once it is there, all of it is.
            move_files(Path(scratch), output_dir, last=file_name)
    except OSError as error:
        raise ExportError(f"cannot export to {output_dir}: {error}") from error
    except (AssertionError, IndexError) as error:  # the model's own, e.g. Longformer's, which looks for its separators
        raise ExportError(
            f"{type(model).__name__} cannot be exported: it does not run on parts of features ({error})"
        ) from error

    report = ExportReport(
        path=output_dir / file_name,
        max_difference=difference,
        mean_difference=mean_difference,
        num_features=num_features,
        size_bytes=size,
        opset=opset,
        target=target,
        quantized=quantized,
        cpu_note=cpu_note(twin).strip() if quantized else "",
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


def refuse_unrecordable(model: PreTrainedModel) -> None:
    """Raise ExportError for a model whose graph would be right for the recorded inputs alone, before it is trained."""
    reason = UNRECORDABLE.get(model.config.model_type)
    if reason:
        raise ExportError(f"{type(model).__name__} cannot be exported to ONNX: {reason}")


def _check_opset(opset: int, target: str, quantized: bool) -> None:
    if target not in TARGETS:
        raise ExportError(f"there is no target {target!r}, only {', '.join(TARGETS)}")
    if quantized and opset < MIN_INT8_OPSET:
        raise ExportError(f"opset {opset} cannot hold a quantized model: it needs {MIN_INT8_OPSET} or more")
    newest = TARGETS[target]
    if opset > newest and (quantized or target == "deepsparse"):
        reason = "DeepSparse loads" if target == "deepsparse" else "PyTorch's exporter knows"
        raise ExportError(f"opset {opset} is too new: {reason} {newest} and less")


def _leave_uncalled(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> None:
    """Take the quantizers out of modules that no forward pass calls: they have no range, and round nothing."""
    unseen = {name.rpartition(".")[0] for name, quantizer in quantizers(model).items() if not quantizer.observed}
    unseen = {name.removesuffix(".matmul_quantizers") for name in unseen}
    leave_in_fp32(model, unseen.intersection(uncalled_modules(model, batch)) if unseen else ())


def _check_ranges(model: PreTrainedModel) -> None:
    """Raise ExportError if the ranges of a quantizing model still move, or are not there."""
    unseen = [name for name, quantizer in quantizers(model).items() if not quantizer.observed]
    if unseen:
        more = f" and {len(unseen) - 1} more have" if len(unseen) > 1 else " has"
        raise ExportError(
            f"the quantizer {unseen[0]}{more} seen no data and no range: train or calibrate the model before the export"
        )
    moving = [name for name, quantizer in quantizers(model).items() if quantizer.observer_enabled]
    if moving:
        raise ExportError(
            f"the ranges of the quantized model still follow the data ({moving[0]} and {len(moving) - 1} more): "
            "training has to pass the recipe's disable_quantization_observer_epoch, or to finish, before the export"
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
                NamedOutputs(model, list(example), output_names),
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
        NamedOutputs(int8, list(example), output_names)(*example.values())  # are they there?
        recorder = ActivationRecorder(int8, recorded_modules(int8, dict(fake_quantized_modules(model))))
        int8(**example)
    _write(int8, path, batch, [*output_names, *recorder.tensors], opset)

    proto = onnx.load(path)
    deduplicate(proto.graph)
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
                f"allowed is {MODULE_LIMIT:.0e}. The ONNX model was not kept.{cpu_note(model)}"
            )
    del proto.graph.output[len(output_names) :]
    deduplicate(proto.graph)  # again: Identity may have stood before what was recorded
    onnx.save(proto, path)
    _check(path)
