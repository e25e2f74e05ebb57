"""Checks before an export, and the copy of the model that is exported."""

import copy
from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsification.export.targets import TARGETS
from sparsification.export.verify import ExportError
from sparsification.quantization.attention import ATTENTION
from sparsification.quantization.modules import leave_in_fp32, quantizers, uncalled_modules

MIN_INT8_OPSET = 13  # before it, DequantizeLinear has one scale for a whole tensor
# Models that cannot be exported by recording one run, and why; by model type or class.
UNRECORDABLE = {
    "longformer": "how many windows and global tokens its attention has differs from batch to batch, and the exporter "
    "records those of one",
    "BartForSequenceClassification": "its head needs the end token of each row, and the exporter records shorter rows",
}
MAX_FILE_BYTES = 2**31 - 1  # protobuf holds no larger message


def refuse_unrecordable(model: PreTrainedModel) -> None:
    """Raise ExportError for a model whose graph would be correct for the recorded inputs only.

    Call it before the training, so that no epochs are spent on a model that cannot be exported.
    """
    name = type(model).__name__
    reason = UNRECORDABLE.get(name) or UNRECORDABLE.get(model.config.model_type)
    if reason:
        raise ExportError(f"{name} cannot be exported to ONNX: {reason}")


def check_opset(opset: int, target: str, quantized: bool) -> None:
    """Raise ExportError for an unknown target, or an opset that it or the exporter does not support."""
    if target not in TARGETS:
        raise ExportError(f"there is no target {target!r}, only {', '.join(TARGETS)}")
    if quantized and opset < MIN_INT8_OPSET:
        raise ExportError(f"opset {opset} cannot hold a quantized model: it needs {MIN_INT8_OPSET} or more")
    newest = TARGETS[target]
    if opset > newest and (quantized or target == "deepsparse"):
        reason = "DeepSparse loads" if target == "deepsparse" else "PyTorch's exporter knows"
        raise ExportError(f"opset {opset} is too new: {reason} {newest} and less")


def drop_uncalled_quantizers(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> None:
    """Remove the quantizers of modules that no forward pass calls: they have no range and no effect."""
    unobserved = {name.rpartition(".")[0] for name, quantizer in quantizers(model).items() if not quantizer.observed}
    unobserved = {name.removesuffix(".matmul_quantizers") for name in unobserved}
    leave_in_fp32(model, unobserved.intersection(uncalled_modules(model, batch)) if unobserved else ())


def check_ranges(model: PreTrainedModel) -> None:
    """Raise ExportError if a quantizer has no range yet, or one that still changes."""
    unobserved = [name for name, quantizer in quantizers(model).items() if not quantizer.observed]
    if unobserved:
        more = f" and {len(unobserved) - 1} more have" if len(unobserved) > 1 else " has"
        raise ExportError(
            f"the quantizer {unobserved[0]}{more} seen no data and no range: train or calibrate the model before the "
            "export"
        )
    moving = [name for name, quantizer in quantizers(model).items() if quantizer.observer_enabled]
    if moving:
        raise ExportError(
            f"the ranges of the quantized model still follow the data ({moving[0]} and {len(moving) - 1} more): "
            "training has to pass the recipe's disable_quantization_observer_epoch, or to finish, before the export"
        )


def copy_for_export(model: PreTrainedModel) -> PreTrainedModel:
    """Copy a model: with eager attention, in fp32 and eval mode, on the CPU.

    Raises:
        ExportError: its weights do not fit into one file.
    """
    num_bytes = 4 * sum(tensor.numel() for tensor in chain(model.parameters(), model.buffers()))
    if num_bytes > MAX_FILE_BYTES:
        raise ExportError(
            f"the model has {num_bytes / 2**30:.1f} GiB of fp32 weights; a single ONNX file holds at most "
            f"{MAX_FILE_BYTES / 2**30:.1f} GiB, and files with external data are not supported"
        )
    twin = copy.deepcopy(model)
    # Accelerate's mixed precision sets an autocasting forward on the instance: the export needs the class's own.
    for name in ("forward", "_original_forward"):
        vars(twin).pop(name, None)
    twin.cpu().float().eval().requires_grad_(False)
    if twin.config._attn_implementation != ATTENTION:  # quantized attention is eager itself
        twin.set_attn_implementation("eager")
    twin.config.architectures = [type(model).__name__]
    twin.config.dtype = torch.float32
    return twin
