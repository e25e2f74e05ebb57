"""PyTorch's two ONNX exporters with one signature, and the choice between them.

The dynamo exporter, the default, writes opsets 18 to 23. The TorchScript exporter, which PyTorch has deprecated, writes
opsets 7 to 20; it takes seconds less and writes more nodes. Both keep the batch and the sequence axis dynamic.
``choose_exporter`` follows the measurements in benchmarks/onnx_exporters.md.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import Tensor

from sparsification.export.graph import reorder_gelu, strip_metadata
from sparsification.export.targets import AUTO, DYNAMO, EXPORTERS, TORCHSCRIPT
from sparsification.export.verify import ExportError, NamedOutputs

# The dynamo exporter's own opset is 18: it cannot convert LayerNormalization to an older one. 23 is the newest tested.
DYNAMO_OPSETS = range(18, 24)
DEFAULT_OPSET = DYNAMO_OPSETS.start
# DeepSparse has been measured with it (benchmarks/onnx_engines.md), and optimizes fewer operators of 17 and 18.
DEEPSPARSE_OPSET = 14
# Models that the dynamo exporter of PyTorch 2.13 cannot export; by model type.
_TORCHSCRIPT_ONLY = {
    "mbart",  # its squeeze() of a (batch, 1) tensor removes the batch axis, too, if there is one row
    "xlnet",  # subtracts an int64 mask from 1.0, which fails in the exporter's decomposition
}
REGISTRATION_LOGGER = logging.getLogger("torch.onnx._internal.exporter._registration")
# Warnings on every BERT; the comparison afterwards covers what those of the TorchScript exporter suspect.
_KNOWN_WARNINGS = (
    (DeprecationWarning, "You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, "The feature will be removed"),
    (UserWarning, "Exporting aten::index operator of advanced indexing"),
    (torch.jit.TracerWarning, "Converting a tensor to a Python boolean"),
    (UserWarning, "# The axis name: (batch|sequence) will not be used, since it shares the same shape constraints"),
    (FutureWarning, "`isinstance.treespec, LeafSpec.` is deprecated"),  # in PyTorch's own code
)


def default_opset(exporter: str, target: str) -> int:
    """ONNX operator set of a file for which none is given; the arguments are those of ``choose_exporter``."""
    return DEEPSPARSE_OPSET if target == "deepsparse" and exporter != DYNAMO else DEFAULT_OPSET


def choose_exporter(exporter: str, model_type: str, opset: int, target: str) -> str:
    """The exporter for a model.

    Args:
        exporter: one of ``EXPORTERS``. "auto" is the dynamo exporter where it passes the checks that the TorchScript
            exporter passes: with opsets 18 to 23, for ONNX Runtime, except for XLNet and mBART.
        model_type: of the model's config.
        opset: ONNX operator set.
        target: engine.

    Returns:
        "dynamo" or "torchscript".

    Raises:
        ExportError: there is no such exporter, or it does not write the opset.
    """
    if exporter not in EXPORTERS:
        raise ExportError(f"exporter must be one of {', '.join(EXPORTERS)}, got {exporter!r}")
    if exporter == DYNAMO and opset not in DYNAMO_OPSETS:
        ends = f"{DYNAMO_OPSETS.start} to {DYNAMO_OPSETS.stop - 1}"
        raise ExportError(f"opset must be {ends} for the dynamo exporter, got {opset}")
    if exporter != AUTO:
        return exporter
    passes = opset in DYNAMO_OPSETS and target == "onnxruntime" and model_type not in _TORCHSCRIPT_ONLY
    return DYNAMO if passes else TORCHSCRIPT


def torchscript_export(
    model: NamedOutputs, example: Mapping[str, Tensor], path: Path, output_names: Sequence[str], opset: int
) -> None:
    """Write a model with the TorchScript exporter.

    Args:
        model: takes the tensors of ``example`` in order.
        example: (batch, sequence) tensors by input name.
        path: the file.
        output_names: names of the outputs, in order.
        opset: ONNX operator set.
    """
    with _without_known_warnings():
        torch.onnx.export(
            model,
            tuple(example.values()),
            path,
            input_names=list(example),
            output_names=list(output_names),
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in example}
            | dict(zip(output_names, _output_axes(model, example), strict=True)),
            opset_version=opset,
            dynamo=False,
        )


def _output_axes(model: NamedOutputs, example: Mapping[str, Tensor]) -> list[dict[int, str]]:
    """Names of the dynamic axes of each output: the second one only where it follows the length of the inputs.

    The logits of a classifier are (batch, labels), those of a token classifier (batch, sequence, labels).
    """
    others = [tensor[:, :-1] if tensor.shape[1] > 1 else tensor.repeat(1, 2) for tensor in example.values()]
    pairs = zip(model(*example.values()), model(*others), strict=True)
    return [{0: "batch"} | ({1: "sequence"} if one.shape != other.shape else {}) for one, other in pairs]


def dynamo_export(
    model: NamedOutputs, example: Mapping[str, Tensor], path: Path, output_names: Sequence[str], opset: int
) -> None:
    """Write a model with the dynamo exporter; arguments as for ``torchscript_export``."""
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    with _without_known_warnings():
        torch.onnx.export(
            model,
            tuple(example.values()),
            path,
            input_names=list(example),
            output_names=list(output_names),
            dynamic_shapes={"inputs": tuple(axes for _ in example)},
            opset_version=opset,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    proto = onnx.load(path)
    strip_metadata(proto)
    reorder_gelu(proto)
    onnx.save(proto, path)


@contextmanager
def _without_known_warnings() -> Iterator[None]:
    """Without known warnings, and without a line for each operator of torchvision, which no encoder uses."""
    level = REGISTRATION_LOGGER.level
    REGISTRATION_LOGGER.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for category, message in _KNOWN_WARNINGS:
                warnings.filterwarnings("ignore", message=message, category=category)
            yield
    finally:
        REGISTRATION_LOGGER.setLevel(level)
