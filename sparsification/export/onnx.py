"""Export of a model to a checked ONNX file.

``export_onnx`` exports a copy of the model (eager attention, fp32, on the CPU; the model in memory is not changed) and
compares ONNX Runtime's outputs with PyTorch's on real features. Pruned weights are exactly zero in the file, too. The
file is written under a temporary name in the target directory and renamed last, so that a file with the final name is
always a checked one: the new one, or the one that was there before.

A quantized model becomes an int8 graph in the form that the target engine is fast with (``int8``). It is compared with
the fake-quantized model: each module by itself (``recorder``), and the outputs by their distribution.
"""

import contextlib
import logging
import math
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from sparsification.atomic_io import EXPORTING, move_files
from sparsification.export.exporters import choose_exporter, default_opset
from sparsification.export.prepare import (
    check_opset,
    check_ranges,
    copy_for_export,
    drop_uncalled_quantizers,
    refuse_unrecordable,
)
from sparsification.export.targets import AUTO
from sparsification.export.verify import MEAN_LIMIT, ExportError, compare, cpu_note, select
from sparsification.export.write import write, write_int8
from sparsification.quantization.modules import fake_quant_enabled
from sparsification.runtime.rewrite import SPARSE_FILE

logger = logging.getLogger(__name__)

ONNX_FILE = "model.onnx"


@dataclass(frozen=True)
class ExportReport:
    """Result of an export and of its check."""

    path: Path
    max_difference: float  # largest |ONNX Runtime - PyTorch| over all outputs at positions that are not padding
    mean_difference: float  # mean of the same in standard deviations of the output; of the worst output
    num_features: int  # how many rows of ``check_batches`` were compared
    size_bytes: int
    opset: int
    exporter: str  # that wrote it: dynamo or torchscript
    target: str
    quantized: bool  # whether it is an int8 graph
    cpu_note: str  # warning if the exporting CPU lacks VNNI, which a quantized model needs; else empty


def export_onnx(
    model: PreTrainedModel,
    output_dir: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    input_names: Sequence[str],
    output_names: Sequence[str],
    check_batches: Iterable[Mapping[str, Tensor]],
    opset: int | None = None,
    tolerance: float = 1e-4,
    file_name: str = ONNX_FILE,
    target: str = "onnxruntime",
    exporter: str = AUTO,
) -> ExportReport:
    """Write ``model`` as a checked ONNX file, its config and its tokenizer beside it.

    In a distributed run, call it on the main process only. ``model`` is the bare model, not a DDP wrapper of it.

    Args:
        model: any model whose named inputs are (batch, sequence) tensors. It is copied, never changed.
        output_dir: made if missing.
        tokenizer: saved beside the model if given.
        input_names: the arguments of ``model.forward`` that become the inputs of the graph.
        output_names: the fields of the model's output that become the outputs of the graph, (batch, sequence, ...).
        check_batches: real features, at least one batch; other keys than ``input_names`` are ignored. One row
            of half the length of the first is checked as well. Consumed lazily, each batch once.
        opset: ONNX operator set: at most 20, for DeepSparse at most 18; at least 13 for a quantized model. By default
            18; 14 for DeepSparse, unless the exporter is "dynamo".
        tolerance: largest allowed absolute difference of a model that is not quantized, times the largest |output|
            where that is above 1. Positions whose ``attention_mask`` is 0 do not count.
        file_name: the model's name inside ``output_dir``.
        target: engine that the int8 graph of a quantized model is written for: "onnxruntime" (also for OpenVINO) or
            "deepsparse". Both run in ONNX Runtime, where they are checked.
        exporter: PyTorch's exporter, "dynamo" or "torchscript". "auto" is dynamo, but torchscript for XLNet,
            mBART, DeepSparse and the opsets that dynamo does not write (it writes 18 to 23).

    Returns:
        The report of the check, which is logged as well.

    Raises:
        ExportError: the model cannot be exported by recording a run, the target does not support the opset, a
            quantized model's ranges are not final, the model is too large for one file, an input or output is
            missing, the exporter, the checker or ONNX Runtime refuses the graph, an output differs (or is NaN, or has
            another shape), or the disk is full. ``output_dir/file_name`` is then what it was before.
    """
    refuse_unrecordable(model)
    output_dir = Path(output_dir)
    batches = iter(check_batches)
    first = next(batches, None)
    if first is None:
        raise ExportError("there is no feature to check the exported model with: check_batches is empty")
    first = select(first, input_names)
    quantized = fake_quant_enabled(model)
    if opset is None:
        opset = default_opset(exporter, target)
    check_opset(opset, target, quantized)
    exporter = choose_exporter(exporter, model.config.model_type, opset, target)
    mean_limit = math.inf
    twin = copy_for_export(model)
    if quantized:
        drop_uncalled_quantizers(twin, first)
        check_ranges(twin)
        tolerance, mean_limit = math.inf, MEAN_LIMIT
    smaller = {name: tensor[:1, : max(1, tensor.shape[1] // 2)] for name, tensor in first.items()}

    try:
        with _scratch_dir(output_dir) as scratch:
            path = scratch / file_name
            if quantized:
                write_int8(twin, path, first, smaller, output_names, opset, target, exporter)
            else:
                write(twin, path, first, output_names, opset, exporter)
            # One row has too few positions for a distribution: no limit on the mean.
            compare(path, twin, [smaller], input_names, output_names, tolerance, math.inf)
            difference, mean_difference, num_features = compare(
                path, twin, chain([first], batches), input_names, output_names, tolerance, mean_limit
            )
            size = path.stat().st_size
            _publish(scratch, output_dir, twin, tokenizer, file_name)
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
        exporter=exporter,
        target=target,
        quantized=quantized,
        cpu_note=cpu_note(twin) if quantized else "",
    )
    _log(report)
    return report


@contextlib.contextmanager
def _scratch_dir(output_dir: Path) -> Iterator[Path]:
    """A temporary directory in the target directory, which is made if missing."""
    output_dir.mkdir(parents=True, exist_ok=True)
    for left_over in output_dir.glob(f"{EXPORTING}*"):  # of a run that was killed
        shutil.rmtree(left_over, ignore_errors=True)
    # In the target directory: a rename across file systems would be a copy, which can be interrupted.
    with tempfile.TemporaryDirectory(prefix=EXPORTING, dir=output_dir, ignore_cleanup_errors=True) as scratch:
        yield Path(scratch)


def _publish(
    scratch: Path,
    output_dir: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    file_name: str,
) -> None:
    """Move the checked file to its final name, with the model's config and the tokenizer."""
    model.config.save_pretrained(scratch)
    if tokenizer is not None:
        tokenizer.save_pretrained(scratch)
    (output_dir / SPARSE_FILE).unlink(missing_ok=True)  # made from the file that is replaced now
    # The model is moved last: once it is there, all files are.
    move_files(scratch, output_dir, last=file_name)


def _log(report: ExportReport) -> None:
    logger.info(
        "%s: %s%.1f MB, opset %d by the %s exporter; ONNX Runtime %s on %d features, max difference %.1e%s",
        report.path,
        f"int8 for {report.target}, " if report.quantized else "",
        report.size_bytes / 1e6,
        report.opset,
        report.exporter,
        "follows fake-quantized PyTorch" if report.quantized else "equals PyTorch",
        report.num_features,
        report.max_difference,
        f", mean {report.mean_difference:.1%} of the outputs' standard deviation" if report.quantized else "",
    )
    if report.cpu_note:
        logger.warning("%s: %s", report.path, report.cpu_note)
