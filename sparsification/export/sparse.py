"""Export of the sparse file, compared with the int8 file that it is made from.

Rounding makes a deep model chaotic (see ``recorder``), so the outputs alone say little. But most tensors that the
sparse operators compute have the names that they have in the int8 graph. The int8 graph is cut at these tensors: each
subgraph gets the sparse graph's values as inputs, and must compute the values that the sparse operators computed.
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


@dataclass(frozen=True)
class SparseReport:
    """Result of an export and of its comparison with the int8 file."""

    conversion: ConversionReport
    subgraph_difference: float  # mean difference of the worst subgraph, in standard deviations of its output
    mean_difference: float  # of the worst output at positions that are not padding, in the same unit
    max_difference: float  # largest absolute difference of all outputs there


def export_sparse(source: str | Path, check_batches: Iterable[Mapping[str, Tensor]]) -> SparseReport:
    """Write ``model.sparse.onnx`` beside an int8 file, checked against it.

    Args:
        source: an int8 ``model.onnx`` of ``export_onnx`` for ONNX Runtime.
        check_batches: real features, at least one batch.

    Raises:
        BuildError: there is no compiler for the operators, or it failed.
        SparseGraphError: the file is not quantized, or no layer is sparse enough.
        ExportError: the files differ, or the disk is full. ``model.sparse.onnx`` is in all cases what it was before.
    """
    source = Path(source)
    batches = list(check_batches)
    row = {name: torch.as_tensor(tensor)[:1] for name, tensor in batches[0].items()}
    try:
        with tempfile.TemporaryDirectory(prefix=EXPORTING, dir=source.parent, ignore_cleanup_errors=True) as scratch:
            path = Path(scratch) / SPARSE_FILE
            conversion = rewrite_sparse(source, path)
            subgraphs = _worst(source, subgraph_differences(source, path, row), SUBGRAPH_LIMIT)
            means, largest = output_differences(source, path, batches)
            outputs = _worst(source, means, MEAN_LIMIT)
            target = source.with_name(SPARSE_FILE)
            atomic_replace(path, target)
    except OSError as error:
        raise ExportError(f"cannot export to {source.parent}: {error}") from error
    report = SparseReport(replace(conversion, path=target), subgraphs, outputs, largest)
    logger.info(
        "%s: %.1f MB, %d of %d layers are sparse; differs from %s by %.1e standard deviations in the worst subgraph, "
        "by %.1e at the outputs",
        target,
        conversion.size_bytes / 1e6,
        len(conversion.sparse),
        len(conversion.sparse) + len(conversion.dense),
        source.name,
        subgraphs,
        outputs,
    )
    return report


def _worst(source: Path, differences: Mapping[str, float], limit: float) -> float:
    """The largest difference; ExportError if it is above the limit."""
    name = max(differences, key=lambda name: differences[name])
    # Written so that NaN, which compares False with everything, is an error.
    if not all(difference <= limit for difference in differences.values()):
        raise ExportError(
            f"the sparse form of {source} differs from it: {name} differs by {differences[name]:.1e} "
            f"standard deviations in the mean; allowed is {limit:g}. {SPARSE_FILE} was not kept."
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
    int8: Path, sparse: Path, batches: Iterable[Mapping[str, Tensor]]
) -> tuple[dict[str, float], float]:
    """Mean difference of each output in standard deviations, and the largest of all, where the mask is not 0."""
    expected, actual = OnnxModel(int8), OnnxModel(sparse)
    sums, largest = {name: np.zeros(4) for name in expected.output_names}, 0.0
    for batch in batches:
        mask = batch.get("attention_mask")
        for name, *pair in zip(expected.output_names, expected(batch), actual(batch), strict=True):
            theirs, ours = (at_tokens(torch.from_numpy(array), mask) for array in pair)
            sums[name] += difference_sums(theirs, ours)
            largest = max(largest, (theirs - ours).abs().max().item())
    return {name: mean_difference(*values) for name, values in sums.items()}, largest
