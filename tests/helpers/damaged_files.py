"""Models whose damaged copies must not crash the process that loads and runs them."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from helpers import damage
from helpers.exports import (
    export_model,
    make_batch,
    make_bert,
    prune_model,
    quantize_by_onnxruntime,
    quantize_model,
)


def assert_survives(
    way: str,
    folder: Path,
    seed: int,
    python: str | Path = sys.executable,
    environment: Mapping[str, str] | None = None,
) -> None:
    """A process that loads and runs 60 damaged copies ends by itself, having run some and refused some.

    Args:
        way: ``operators`` or ``provider``, which also takes what ONNX Runtime has quantized.
        folder: directory for the model.
        seed: 0 to 3; the model is int8 or fp32 by it.
        python: the interpreter of the process.
        environment: of the process; this one's, with its path for imports, if None.
    """
    model = prune_model(make_bert(1))
    # ONNX Runtime itself crashes on damaged operators of the format QOperator.
    form = {2: "dynamic, asymmetric", 3: "QDQ"}.get(seed) if way == "provider" else None
    export_model(quantize_model(model) if seed % 2 == 0 and not form else model.eval(), folder)
    if form:
        quantize_by_onnxruntime(folder / "model.onnx", form)
    np.savez(folder / "feed.npz", **{name: one.numpy() for name, one in make_batch(2, 9).items()})
    environment = environment or os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [str(python), damage.__file__, way, str(folder), str(seed), "60"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert min(int(number) for number in result.stdout.split()) > 5, result.stdout
