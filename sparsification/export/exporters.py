"""PyTorch's two ONNX exporters with one signature, and the choice between them.

The TorchScript exporter, which PyTorch has deprecated, writes opsets 7 to 20. The dynamo exporter writes opset 18
and later; it takes seconds longer and writes fewer nodes. Both keep the batch and the sequence axis dynamic.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from torch import Tensor

from sparsification.export.graph import finish
from sparsification.export.verify import NamedOutputs

TORCHSCRIPT, DYNAMO = "torchscript", "dynamo"
# Warnings of the TorchScript exporter on every BERT; the comparison afterwards covers what they suspect.
_KNOWN_WARNINGS = (
    (DeprecationWarning, "You are using the legacy TorchScript-based ONNX export"),
    (DeprecationWarning, "The feature will be removed"),
    (UserWarning, "Exporting aten::index operator of advanced indexing"),
    (torch.jit.TracerWarning, "Converting a tensor to a Python boolean"),
)


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
    with warnings.catch_warnings():
        for category, message in _KNOWN_WARNINGS:
            warnings.filterwarnings("ignore", message=message, category=category)
        torch.onnx.export(
            model,
            tuple(example.values()),
            path,
            input_names=list(example),
            output_names=list(output_names),
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in (*example, *output_names)},
            opset_version=opset,
            dynamo=False,
        )


def dynamo_export(
    model: NamedOutputs, example: Mapping[str, Tensor], path: Path, output_names: Sequence[str], opset: int
) -> None:
    """Write a model with the dynamo exporter; arguments as for ``torchscript_export``."""
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence")}
    with _without_registration_warnings():
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
    finish(proto)
    onnx.save(proto, path)


@contextmanager
def _without_registration_warnings() -> Iterator[None]:
    """Without a line for each operator of torchvision, which no encoder uses."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
