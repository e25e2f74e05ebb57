"""Sparse inference in ONNX Runtime, with operators of this project.

``rewrite.rewrite_sparse`` writes ``model.sparse.onnx`` from a ``model.onnx``, and ``load_session`` returns a
session for either. The operators are a small library, compiled once on the machine that runs it (``build.build``).
"""

import logging
import os
from functools import cache
from pathlib import Path

import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from sparsification.runtime.overflow import EXACT_OPTION, in_fp32, overflows
from sparsification.runtime.provider import provider_options
from sparsification.runtime.rewrite import DOMAIN, SPARSE_FILE

logger = logging.getLogger(__name__)

# Errors for a file that cannot be read, or inputs that do not fit it: they have no base class of their own.
ENGINE_ERRORS = (
    DecodeError,
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NoSuchFile,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


@cache
def _warn_of_overflow() -> None:
    """Log once."""
    logger.warning(
        "This CPU has no VNNI: sums of 8-bit products would overflow, and are computed in fp32, which is slower. For "
        "int8 on such CPUs, quantize with reduce_range: true in the recipe's QuantizationModifier."
    )


def load_session(
    path: str | Path, threads: int | None = None, sparse_provider: bool = False
) -> onnxruntime.InferenceSession:
    """Create a session of ONNX Runtime on the CPU, with the sparse operators if the model needs them.

    Args:
        path: an ONNX file, or a directory, from which ``model.sparse.onnx`` is loaded, else ``model.onnx``.
        threads: number of threads for each run; ONNX Runtime's own choice by default.
        sparse_provider: use the execution provider of onnxruntime-ep-sparse, if it is installed, for a file without
            sparse operators. A line in the log says whether it is used.

    Raises:
        FileNotFoundError: there is no such file.
        BuildError: the model needs the sparse operators, and there is no compiler, or it failed.
        one of ``ENGINE_ERRORS``: ONNX Runtime cannot load the file.
    """
    from sparsification.runtime.build import build  # not at the top: ``python -m`` runs that module itself

    path = Path(path)
    if path.is_dir():
        names = [name for name in (SPARSE_FILE, "model.onnx") if (path / name).is_file()]
        if not names:
            raise FileNotFoundError(f"{path} has neither {SPARSE_FILE} nor model.onnx")
        path = path / names[0]
    model = onnx.load(path, load_external_data=False)
    has_operators = any(opset.domain == DOMAIN for opset in model.opset_import)
    provided = provider_options() if sparse_provider and not has_operators else None
    options = provided or onnxruntime.SessionOptions()
    # 1 is fp32. By default ONNX Runtime quantizes the inputs of int8 weights, which the graph does not.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    source: str | bytes = os.fspath(path)
    if overflows(model, path.parent):
        _warn_of_overflow()
        options.add_session_config_entry(EXACT_OPTION, "1")
        if not provided:  # it computes the products that it takes by itself, and knows them by their operators
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
            source = in_fp32(model).SerializeToString()
    if has_operators:
        options.register_custom_ops_library(os.fspath(build()))
    if sparse_provider:
        used = "the execution provider of onnxruntime-ep-sparse" if provided else "ONNX Runtime's CPU provider"
        logger.info(f"{path} runs on {used}{' with sparse operators' if has_operators else ''}.")
    # Options with devices of a provider and a list of providers exclude each other.
    providers = None if provided else ["CPUExecutionProvider"]
    return onnxruntime.InferenceSession(source, options, providers=providers)
