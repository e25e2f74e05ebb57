"""Export of the sparse file, compared with the file that it is made from.

In fp32 the outputs must be equal up to rounding. In int8, rounding makes a deep model chaotic (see ``recorder``), so
the outputs alone say little. But most tensors that the sparse operators compute have the names that they have in the
int8 graph. The int8 graph is cut at these tensors: each subgraph gets the sparse graph's values as inputs, and must
compute the values that the sparse operators computed.
"""

import logging
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor

from sparsification.atomic_io import EXPORTING, atomic_replace
from sparsification.export.verify import (
    MEAN_LIMIT,
    ExportError,
    OnnxModel,
    at_tokens,
    difference_sums,
    mean_difference,
)
from sparsification.runtime.rewrite import DOMAIN, SPARSE_FILE, ConversionReport, rewrite_sparse

logger = logging.getLogger(__name__)

# Limit of a subgraph's mean difference, in standard deviations of its output, measured on MiniLM-L6 (80 % in 1x4
# blocks): attention up to 1.2e-3 when correct, the others up to 1e-6; 0.04 to 0.2 for one scale that is 20 % off.
SUBGRAPH_LIMIT = 0.01

# Limit of the largest difference of an output in fp32, times the largest |output| where that is above 1.
FLOAT_LIMIT = 1e-4


@dataclass(frozen=True)
class OutputDifference:
    """How an output of the sparse file differs from the other file's, at positions that are not padding."""

    mean: float  # of the absolute differences, in standard deviations of the output
    largest: float
    magnitude: float  # the largest |output|


@dataclass(frozen=True)
class SparseReport:
    """Result of an export and of its comparison with the file that it is made from."""

    conversion: ConversionReport
    subgraph_difference: float | None  # mean difference of the worst subgraph, in standard deviations; None in fp32
    mean_difference: float  # of the worst output at positions that are not padding, in the same unit
    max_difference: float  # largest absolute difference of all outputs there


def export_sparse(source: str | Path, check_batches: Iterable[Mapping[str, Tensor]]) -> SparseReport:
    """Write ``model.sparse.onnx`` beside a file, checked against it.

    Args:
        source: a ``model.onnx`` of ``export_onnx``, in fp32 or in int8 for ONNX Runtime.
        check_batches: real features, at least one batch.

    Raises:
        BuildError: there is no compiler for the operators, or it failed.
        SparseGraphError: the file has no Linear layer that is sparse enough.
        ExportError: the files differ, or the disk is full. ``model.sparse.onnx`` is in all cases what it was before.
    """
    source = Path(source)
    batches = list(check_batches)
    row = {name: torch.as_tensor(tensor)[:1] for name, tensor in batches[0].items()}
    try:
        with tempfile.TemporaryDirectory(prefix=EXPORTING, dir=source.parent, ignore_cleanup_errors=True) as scratch:
            path = Path(scratch) / SPARSE_FILE
            conversion = rewrite_sparse(source, path)
            outputs = output_differences(source, path, batches)
            means = {name: output.mean for name, output in outputs.items()}
            subgraphs = None
            if conversion.quantized:
                subgraphs = _worst(source, subgraph_differences(source, path, row), SUBGRAPH_LIMIT, _MEAN)
                _worst(source, means, MEAN_LIMIT, _MEAN)
            else:
                relative = {name: output.largest / max(1.0, output.magnitude) for name, output in outputs.items()}
                _worst(source, relative, FLOAT_LIMIT, "at most, relative to its largest value above 1")
            target = source.with_name(SPARSE_FILE)
            atomic_replace(path, target)
    except OSError as error:
        raise ExportError(f"cannot export to {source.parent}: {error}") from error
    report = SparseReport(
        replace(conversion, path=target),
        subgraphs,
        max(means.values()),
        max(output.largest for output in outputs.values()),
    )
    logger.info(
        "%s: %.1f MB, %d of %d layers are sparse; its outputs differ from those of %s by %.1e at most%s",
        target,
        conversion.size_bytes / 1e6,
        len(conversion.sparse),
        len(conversion.sparse) + len(conversion.dense),
        source.name,
        report.max_difference,
        "" if subgraphs is None else f", by {subgraphs:.1e} standard deviations in the worst subgraph",
    )
    return report


_MEAN = "standard deviations in the mean"


def _worst(source: Path, differences: Mapping[str, float], limit: float, unit: str) -> float:
    """The largest difference; ExportError if it is above the limit."""
    name = max(differences, key=lambda name: differences[name])
    # Written so that NaN, which compares False with everything, is an error.
    if not all(difference <= limit for difference in differences.values()):
        raise ExportError(
            f"the sparse form of {source} differs from it: {name} differs by {differences[name]:.1e} {unit}; allowed "
            f"is {limit:g}. {SPARSE_FILE} was not kept."
        )
    return differences[name]


def subgraph_differences(int8: Path, sparse: Path, row: Mapping[str, Tensor]) -> dict[str, float]:
    """Difference between the outputs of the sparse operators and those of the int8 graph on the same inputs.

    Args:
        int8: the int8 file.
        sparse: the file that ``rewrite_sparse`` has made from it. Temporary files are written beside it.
        row: features.

    Returns:
        Mean difference in standard deviations, by tensor name.
    """
    ours, theirs = onnx.load(sparse), onnx.load(int8)
    known = {name for node in theirs.graph.node for name in node.output}
    shared = [name for node in ours.graph.node if node.domain == DOMAIN for name in node.output if name in known]
    shared += [output.name for output in ours.graph.output if output.name not in shared]
    recorded = dict(zip(shared, _run(ours, shared, sparse.with_name("recorded.onnx"), row), strict=True))
    for node in theirs.graph.node:
        node.input[:] = [_given(name) if name in recorded else name for name in node.input]
    for name, array in recorded.items():
        dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
        theirs.graph.input.append(helper.make_tensor_value_info(_given(name), dtype, array.shape))
    given = {_given(name): torch.from_numpy(array) for name, array in recorded.items()}
    expected = _run(theirs, shared, sparse.with_name("subgraphs.onnx"), {**row, **given})
    return {
        name: mean_difference(*difference_sums(torch.from_numpy(array), torch.from_numpy(recorded[name])))
        for name, array in zip(shared, expected, strict=True)
    }


def _given(name: str) -> str:
    return f"given/{name}"


def _run(model: onnx.ModelProto, outputs: list[str], path: Path, batch: Mapping[str, Tensor]) -> tuple[np.ndarray, ...]:
    """Run a model with these outputs in place of its own; it is written to ``path``."""
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    onnx.save(model, path)
    return OnnxModel(path)(batch)


def output_differences(
    source: Path, sparse: Path, batches: Iterable[Mapping[str, Tensor]]
) -> dict[str, OutputDifference]:
    """Difference of each output, where the mask is not 0."""
    expected, actual = OnnxModel(source), OnnxModel(sparse)
    names = expected.output_names
    sums = {name: np.zeros(4) for name in names}
    largest, magnitude = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for batch in batches:
        mask = batch.get("attention_mask")
        for name, *pair in zip(names, expected(batch), actual(batch), strict=True):
            theirs, ours = (at_tokens(torch.from_numpy(array), mask) for array in pair)
            sums[name] += difference_sums(theirs, ours)
            # Of numpy's maximum and a NaN the result is NaN.
            largest[name] = float(np.maximum(largest[name], (theirs - ours).abs().max().item()))
            magnitude[name] = max(magnitude[name], theirs.abs().max().item())
    return {name: OutputDifference(mean_difference(*sums[name]), largest[name], magnitude[name]) for name in names}
