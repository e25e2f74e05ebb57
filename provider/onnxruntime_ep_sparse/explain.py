"""What the provider does with a model: ``explain`` asks it for each Linear layer."""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxruntime_ep_sparse import session_options


@dataclass(frozen=True)
class LayerReport:
    """A Linear layer of a model."""

    name: str  # of its weight
    form: str  # of its weight: int8, which means uint8, too, fp32 or other
    quantization: str  # of an int8 layer: QDQ, QOperator, dynamic or integers; "" if the layer was not looked at
    inputs: int
    outputs: int
    zeros: float  # share of its weights that are zero; -1 if they have not been counted
    taken: str  # "alone", or the name of the part that it was taken with; "" if the CPU provider runs it
    reason: str  # why it was not taken
    dense_ns: float  # estimated time of a token on one thread; 0 if it cannot be taken
    sparse_ns: float
    windows: bool  # the sparse form would be windows of unstructured weights, else 1x4 blocks

    @property
    def gain(self) -> float:
        """How many times as fast as the dense layer the sparse one is expected to be; 0 if not known."""
        return self.dense_ns / self.sparse_ns if self.sparse_ns else 0.0


def layer_reports(model: str | Path, **options: Any) -> list[LayerReport]:
    """Create a session for a model and return what the provider did with each Linear layer.

    Args:
        model: an ONNX file.
        options: of ``session_options``.

    Raises:
        RuntimeError: ONNX Runtime is older than 1.23.
        one of ONNX Runtime's errors: it cannot load the file.
    """
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.jsonl"
        session = session_options(report=report, **options)
        session.log_severity_level = 3
        onnxruntime.InferenceSession(os.fspath(model), session)
        lines = report.read_text(encoding="utf-8").splitlines() if report.exists() else []
    return [LayerReport(**json.loads(line)) for line in lines]


def explain(model: str | Path) -> str:
    """A table of the Linear layers of a model, and a summary.

    Args:
        model: an ONNX file.

    Raises:
        As ``layer_reports``.
    """
    layers = layer_reports(model)
    rows = [("layer", "shape", "weight", "zeros", "taken", "expected")]
    for layer in layers:
        gain = f"{layer.gain:.1f}x" if layer.gain else ""
        taken = layer.taken or f"no: {layer.reason}"
        if layer.taken and layer.form == "int8":
            taken += ", windows" if layer.windows else ", blocks"
        weight = f"{layer.form} {layer.quantization}".strip()
        zeros = f"{layer.zeros:.1%}" if layer.zeros >= 0 else ""
        rows.append((layer.name, f"{layer.inputs}x{layer.outputs}", weight, zeros, taken, gain))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    taken_layers = [layer for layer in layers if layer.taken]
    summary = f"{len(taken_layers)} of {len(layers)} Linear layers are sparse"
    if taken_layers:
        dense, sparse = (sum(getattr(layer, key) for layer in taken_layers) for key in ("dense_ns", "sparse_ns"))
        summary += f"; together their products are expected to be {dense / sparse:.1f} times as fast"
    return "\n".join([*lines, "", summary + "."])
