"""Execution provider of ONNX Runtime for models with many zero weights.

>>> import onnxruntime, onnxruntime_ep_sparse as sparse
>>> session = onnxruntime.InferenceSession("model.onnx", sparse.session_options())  # doctest: +SKIP

The provider takes the Linear layers of a standard model that are faster sparse; the CPU provider runs the rest.
"""

import sys
import threading
from pathlib import Path
from typing import Any

_NAME = "SparseExecutionProvider"
_SUFFIX = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
_OPTIONS = ("always", "fuse", "report")
_lock = threading.Lock()


def get_library_path() -> str:
    """File of the provider's shared library, for ``onnxruntime.register_execution_provider_library``."""
    return str(Path(__file__).resolve().parent / f"libonnxruntime_ep_sparse{_SUFFIX}")


def get_ep_name() -> str:
    """Name of the provider, as ``onnxruntime.get_ep_devices`` has it."""
    return _NAME


def get_ep_names() -> list[str]:
    """Names of all providers of the library."""
    return [_NAME]


def register() -> None:
    """Register the library with ONNX Runtime, unless it is registered already. It stays so: sessions need it.

    Raises:
        RuntimeError: ONNX Runtime is older than 1.23.
    """
    import onnxruntime

    if not hasattr(onnxruntime, "register_execution_provider_library"):
        raise RuntimeError(f"{_NAME} needs ONNX Runtime 1.23 or later, this is {onnxruntime.__version__}")
    with _lock:
        if not _devices():
            onnxruntime.register_execution_provider_library(_NAME, get_library_path())


def session_options(**options: Any) -> Any:
    """Session options with this provider, to which you can add your own.

    Args:
        options: ``fuse=False`` takes Linear layers alone, without what stands around them; ``always=True`` also takes
            layers that are not faster; ``report=PATH`` appends a line of JSON for each layer to a file.

    Returns:
        An ``onnxruntime.SessionOptions``.

    Raises:
        RuntimeError: ONNX Runtime is older than 1.23.
        TypeError: there is no such option.
    """
    import onnxruntime

    unknown = sorted(options.keys() - set(_OPTIONS))
    if unknown:
        raise TypeError(f"{_NAME} has no option {unknown[0]!r}; it has {', '.join(_OPTIONS)}")
    register()
    texts = {key: str(int(value)) if isinstance(value, bool) else str(value) for key, value in options.items()}
    session = onnxruntime.SessionOptions()
    session.add_provider_for_devices(_devices(), texts)
    return session


def _devices() -> list[Any]:
    import onnxruntime

    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == _NAME]
