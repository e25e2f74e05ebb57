"""Export of a prepared model to an ONNX file, in fp32 or as an int8 graph.

PyTorch has two exporters (see ``exporters``). Both record a run, hence the comparison on other shapes than the
recorded one.
"""

import copy
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsification.export.exporters import dynamo_export, torchscript_export
from sparsification.export.graph import deduplicate
from sparsification.export.int8 import to_int8
from sparsification.export.recorder import ActivationRecorder, module_differences, recorded_modules
from sparsification.export.targets import DYNAMO, TORCHSCRIPT
from sparsification.export.verify import ExportError, NamedOutputs, OnnxModel
from sparsification.quantization.modules import fake_quantized_modules

# How far a module of an int8 graph may be from the fake-quantized one, relative to its output's mean, measured on
# MiniLM-L6 (6 models, 2 targets): up to 2e-5 when correct; 0.2 for a scale that is 20 % off.
MODULE_LIMIT = 1e-3


def _example(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Two short rows of a batch, on which a model is recorded."""
    # A size of 1 would be recorded as broadcasting, and a mask without padding might be recorded as no mask.
    example = {name: torch.cat([tensor, tensor])[:2, :16] for name, tensor in batch.items()}
    if "attention_mask" in example:
        example["attention_mask"][0, -1] = 0
    return example


def write(
    model: PreTrainedModel,
    path: Path,
    batch: dict[str, Tensor],
    output_names: Sequence[str],
    opset: int,
    exporter: str,
) -> None:
    """Write a model as an ONNX file.

    Args:
        model: of ``copy_for_export``.
        path: the file.
        batch: features, (batch, sequence) tensors by input name; the model is recorded on two short rows of them.
        output_names: fields of the model's output.
        opset: ONNX operator set.
        exporter: "torchscript" or "dynamo".

    Raises:
        ExportError: an output is missing, the exporter fails, or the ONNX checker refuses the graph.
    """
    example = _example(batch)
    run = {TORCHSCRIPT: torchscript_export, DYNAMO: dynamo_export}[exporter]
    try:
        with torch.no_grad():
            run(NamedOutputs(model, list(example), output_names), example, path, output_names, opset)
    except ExportError:
        raise
    except RuntimeError as error:
        other = ", try --onnx_exporter torchscript" if exporter == DYNAMO else ""
        raise ExportError(
            f"PyTorch's {exporter} exporter cannot export {type(model).__name__} at opset {opset}{other}: "
            f"{_reason(error)}"
        ) from error
    _check_file(path)


def _reason(error: BaseException) -> str:
    """The first line of the error that caused an exporter's error, which itself is a page of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error).strip().partition("\n")[0]


def _check_file(path: Path) -> None:
    """Raise ExportError unless the ONNX checker accepts a file."""
    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported graph is no valid ONNX: {error}") from error


def write_int8(
    model: PreTrainedModel,
    path: Path,
    batch: dict[str, Tensor],
    rows: dict[str, Tensor],
    output_names: Sequence[str],
    opset: int,
    target: str,
    exporter: str,
) -> None:
    """Write a fake-quantized model as an int8 graph, and compare each of its modules with the fake-quantized one.

    Args:
        model: of ``copy_for_export``, with the ranges of all quantizers.
        path: the file.
        batch: as for ``write``.
        rows: features to compare the modules on.
        output_names: fields of the model's output.
        opset: ONNX operator set.
        target: engine whose form the graph gets.
        exporter: as for ``write``.

    Raises:
        ExportError: as for ``write``, or a module differs.
    """
    int8 = copy.deepcopy(model)
    to_int8(int8, in_integers=target == "deepsparse")
    example = _example(batch)
    with torch.no_grad():
        NamedOutputs(int8, list(example), output_names)(*example.values())  # raises if one is missing
        recorder = ActivationRecorder(int8, recorded_modules(int8, dict(fake_quantized_modules(model))))
        int8(**example)
        calls, recorded = dict(recorder.calls), list(recorder.tensors)  # the exporter's own run records again
    write(int8, path, batch, [*output_names, *recorded], opset, exporter)

    proto = onnx.load(path)
    deduplicate(proto.graph)
    for output in proto.graph.output[len(output_names) :]:
        output.type.tensor_type.ClearField("shape")  # that of the example
    onnx.save(proto, path)
    exported = OnnxModel(path)
    tensors = dict(zip(exported.output_names, map(torch.from_numpy, exported(rows)), strict=True))
    with torch.no_grad():
        differences = module_differences(model, calls, tensors)
    for name, difference in differences.items():
        # Written so that NaN, which compares False with everything, is an error.
        if not difference <= MODULE_LIMIT:
            raise ExportError(
                f"ONNX Runtime's {name} differs from the fake-quantized one by {difference:.2e} of its output's mean; "
                f"allowed is {MODULE_LIMIT:.0e}. The ONNX model was not kept."
            )
    del proto.graph.output[len(output_names) :]
    deduplicate(proto.graph)  # again: Identity may have stood before what was recorded
    onnx.save(proto, path)
    _check_file(path)
