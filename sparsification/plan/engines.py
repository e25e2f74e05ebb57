"""The two ways in which ONNX Runtime computes sparse layers on a CPU; a plan is for one of them."""

import hashlib
from pathlib import Path

import onnxruntime

from sparsification.plan.units import PlanError
from sparsification.runtime import load_session
from sparsification.runtime.build import build
from sparsification.runtime.provider import provider_options
from sparsification.runtime.rewrite import rewrite_sparse

OPERATORS = "operators"  # the sparse operators of model.sparse.onnx
PROVIDER = "provider"  # the execution provider of onnxruntime-ep-sparse, for model.onnx
ANY = "any"  # the CPU provider alone, for smaller dense models


def identity(engine: str) -> str:
    """What the times of an engine depend on, besides ONNX Runtime.

    Raises:
        BuildError: there is no compiler for the sparse operators, or it failed.
        PlanError: the provider is not installed, or not usable on this machine.
    """
    if engine == OPERATORS:
        return build().name
    if provider_options() is None:
        raise PlanError("--engine provider: onnxruntime-ep-sparse cannot be used: pip install sparsification[runtime]")
    import onnxruntime_ep_sparse

    return hashlib.sha256(Path(onnxruntime_ep_sparse.get_library_path()).read_bytes()).hexdigest()[:16]


def served(path: Path, engine: str) -> Path:
    """Return the file that an engine loads of a file with zeros, beside it.

    Raises:
        SparseGraphError: no layer is sparse enough for the operators.
    """
    return rewrite_sparse(path, path.with_suffix(".sparse.onnx")).path if engine == OPERATORS else path


def session(path: Path, engine: str, threads: int) -> onnxruntime.InferenceSession:
    """Create the session of a file."""
    return load_session(path, threads, sparse_provider=engine == PROVIDER)
