"""Measurements of the models of a run, for its report."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsification.check.timeline import name_of
from sparsification.manager import ScheduledModifierManager
from sparsification.pruning.sparsity import encoder_sparsity
from sparsification.report.profiling import gzipped_size, one_thread, speed
from sparsification.report.results import ModelResult, Window

WEIGHTS_FILE = "model.safetensors"


def windows(manager: ScheduledModifierManager) -> list[Window]:
    """The time span of each modifier, ordered by start."""
    modifiers = sorted(manager.modifiers, key=lambda modifier: modifier.active_range)
    return [Window(label=name_of(m), start=m.active_range[0], end=m.active_range[1]) for m in modifiers]


def scores(results: Mapping[str, float], metrics: Mapping[str, str], prefix: str) -> dict[str, float]:
    """Select the metrics of an evaluation.

    Args:
        results: by name, prefix included.
        metrics: names without the prefix, and their labels.
        prefix: of the evaluation, e.g. ``eval``.

    Returns:
        Scores by label; metrics that the results lack are left out.
    """
    return {label: results[f"{prefix}_{name}"] for name, label in metrics.items() if f"{prefix}_{name}" in results}


def torch_result(
    name: str, model: nn.Module, folder: Path | None, found: dict[str, float], batch: Mapping[str, Tensor] | None
) -> ModelResult:
    """Measure a PyTorch model.

    Args:
        name: teacher or student.
        model: in evaluation mode; on the CPU if it is timed.
        folder: with its saved weights, or None.
        found: its scores, by label.
        batch: features to time it on, or None to skip timing.
    """

    def run(inputs: Mapping[str, Tensor]) -> object:
        with torch.inference_mode():
            # Accelerate replaces forward of the instance by one that computes in 16 bits if training did.
            return type(model).forward(model, **inputs)

    with one_thread():
        latency, throughput = _speed(run, batch)
    file, size, gzipped = _file_result(folder / WEIGHTS_FILE if folder else None)
    return ModelResult(
        name=name,
        scores=found,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        sparsity=encoder_sparsity(model).get("sparsity/encoder"),
        file=file,
        size=size,
        gzipped=gzipped,
        latency=latency,
        throughput=throughput,
    )


def onnx_result(
    name: str,
    path: Path,
    run: Callable[[Mapping[str, Tensor]], object],
    student: ModelResult,
    found: dict[str, float],
    batch: Mapping[str, Tensor] | None,
) -> ModelResult:
    """Measure an exported model.

    Args:
        name: in tables, e.g. ``ONNX``.
        path: the ONNX file.
        run: runs the file on one thread.
        student: the PyTorch model that was exported.
        found: scores of the file, by label.
        batch: features to time it on, or None to skip timing.
    """
    latency, throughput = _speed(run, batch)
    file, size, gzipped = _file_result(path)
    return ModelResult(
        name=name,
        scores=found,
        parameters=student.parameters,
        sparsity=student.sparsity,
        file=file,
        size=size,
        gzipped=gzipped,
        latency=latency,
        throughput=throughput,
    )


def _speed(
    run: Callable[[Mapping[str, Tensor]], object], batch: Mapping[str, Tensor] | None
) -> tuple[float | None, float | None]:
    """Latency and throughput."""
    return speed(run, batch) if batch else (None, None)


def _file_result(path: Path | None) -> tuple[str | None, int | None, int | None]:
    """Path of a file, and its size in bytes before and after gzip."""
    if path is None or not path.is_file():
        return None, None, None
    return str(path), path.stat().st_size, gzipped_size(path)


def dashboard_figures(models: Iterable[ModelResult]) -> dict[str, float]:
    """Sizes and speeds of all models but the teacher, under the prefixes of their evaluations, e.g. ``eval_onnx_``."""
    figures: dict[str, float] = {}
    for model in models:
        if model.name != "teacher":
            prefix = "eval_" if model.name == "student" else f"eval_{model.name.lower().replace(' ', '_')}_"
            values = {
                "parameters": model.parameters,
                "megabytes": model.size and model.size / 1e6,
                "gzipped_megabytes": model.gzipped and model.gzipped / 1e6,
                "latency_ms": model.latency,
                "throughput": model.throughput,
            }
            figures |= {f"{prefix}{name}": float(value) for name, value in values.items() if value is not None}
    return figures
