"""Outputs of a model with the provider and with the CPU provider, and how far they may differ. Without torch."""

from collections.abc import Mapping
from os import PathLike

import numpy as np
import onnxruntime
from random_graphs import LEVELS

import onnxruntime_ep_sparse as sparse


def run_provider(model: PathLike[str] | bytes, feed: Mapping[str, np.ndarray], level=LEVELS[-1], **options):
    """Outputs of a file, or of its bytes, with the provider; ``options`` are those of ``sparse.session_options``."""
    session = sparse.session_options(**options)
    session.graph_optimization_level, session.log_severity_level = level, 3
    return onnxruntime.InferenceSession(model, session).run(None, feed)


def run_cpu(model: PathLike[str] | bytes, feed: Mapping[str, np.ndarray], level=LEVELS[-1]):
    """Outputs with the CPU provider alone."""
    session = onnxruntime.SessionOptions()
    session.graph_optimization_level = level
    return onnxruntime.InferenceSession(model, session, providers=["CPUExecutionProvider"]).run(None, feed)


def assert_close(actual: list[np.ndarray], expected: list[np.ndarray], precision: str = "int8") -> float:
    """Outputs are equal up to rounding, which in int8 turns differences in the last bit into quantization steps.

    Returns:
        The largest difference for fp32, the mean difference for int8, in standard deviations of the output.
    """
    largest = 0.0
    for one, other in zip(actual, expected, strict=True):
        difference = np.abs(one - other) / other.std()
        found = difference.max() if precision == "fp32" else difference.mean()
        assert found < (1e-4 if precision == "fp32" else 0.02)
        largest = max(largest, float(found))
    return largest
