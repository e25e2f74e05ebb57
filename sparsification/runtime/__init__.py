"""How does a pruned, quantized model run at its speed? In ONNX Runtime, with operators of our own.

``convert.rewrite_sparse`` writes ``model.sparse.onnx`` from an int8 ``model.onnx``, and ``load_session`` gives a
session for either.
The operators are a small library, compiled once on the machine that runs it (``build.build``); everything else in this
project works without it.
"""

import os
from pathlib import Path

import onnx
import onnxruntime
from google.protobuf.message import DecodeError
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from sparsification.runtime.convert import DOMAIN, SPARSE_FILE

# What a file that cannot be read, or does not fit what it is fed, raises: these have no base class of their own.
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


def load_session(path: str | Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    """A session of ONNX Runtime on the CPU, with our operators where the model needs them.

    Args:
        path: an ONNX file, or a directory: of its files ``model.sparse.onnx``, else ``model.onnx``.
        threads: for each run; ONNX Runtime's own choice by default.

    Raises:
        FileNotFoundError: there is no such file.
        BuildError: the model needs our operators, and there is no compiler, or it failed.
        one of ``ENGINE_ERRORS``: ONNX Runtime cannot load the file.
    """
    from sparsification.runtime.build import build  # here, because ``python -m`` runs that module itself

    path = Path(path)
    if path.is_dir():
        names = [name for name in (SPARSE_FILE, "model.onnx") if (path / name).is_file()]
        if not names:
            raise FileNotFoundError(f"{path} has neither {SPARSE_FILE} nor model.onnx")
        path = path / names[0]
    model = onnx.load(path, load_external_data=False)
    options = onnxruntime.SessionOptions()
    # 1 is fp32. By default it rounds the inputs of int8 weights to integers where the graph does not.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    if any(opset.domain == DOMAIN for opset in model.opset_import):
        options.register_custom_ops_library(os.fspath(build()))
    return onnxruntime.InferenceSession(os.fspath(path), options, providers=["CPUExecutionProvider"])
