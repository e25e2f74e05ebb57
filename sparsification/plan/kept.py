"""Results of measurements, kept in files that are named by what they depend on."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor
from transformers import PreTrainedModel

from sparsification.atomic_io import atomic_write_text
from sparsification.report.environment import cpu_flags, cpu_name


def digest(tensors: Sequence[Tensor], *settings: object) -> str:
    """Digest of tensors and settings; the same numbers have the same one."""
    sha = hashlib.sha256(repr(settings).encode())
    for tensor in tensors:
        array = tensor.detach().cpu().contiguous()
        sha.update(f"{tuple(array.shape)} {array.dtype}".encode())
        sha.update(array.flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


def timings_file(folder: Path, kind: str, model: PreTrainedModel, *settings: object) -> Path:
    """File of what was timed of a model on this machine.

    Args:
        folder: of all files.
        kind: first part of the file's name.
        model: that was timed.
        settings: what else the times depend on.
    """
    machine = cpu_name(), cpu_flags(), onnxruntime.__version__
    return folder / f"{kind}-{digest(list(model.parameters()), machine, *settings)}.json"


def losses_file(
    folder: Path, kind: str, model: PreTrainedModel, batches: Sequence[Mapping[str, Tensor]], *settings: object
) -> Path:
    """File of what a model loses on calibration data.

    Args:
        folder: of all files.
        kind: first part of the file's name.
        model: that was measured.
        batches: calibration data, arguments of ``forward``.
        settings: what else the losses depend on.
    """
    tensors = [*model.parameters(), *(tensor for batch in batches for tensor in batch.values())]
    return folder / f"{kind}-{digest(tensors, *settings)}.json"


def kept_timings(path: Path, measure: Callable[[], str], say: Callable[[str], None]) -> str:
    """``kept_text`` of a file of timings; says so if it was there."""
    if path.exists():
        say(f"Costs: from {path}")
    return kept_text(path, measure)


def kept_text(path: Path, measure: Callable[[], str]) -> str:
    """Read a file; ``measure`` gives its text if it is missing."""
    if not path.exists():
        text = measure()
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(path, text)
    return path.read_text(encoding="utf-8")
