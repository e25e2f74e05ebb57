"""The execution provider of the package ``onnxruntime-ep-sparse``, where it is installed.

It runs the sparse layers of a standard ``model.onnx``; ``pip install sparsification[runtime]`` installs it.
"""

import logging
from pathlib import Path

import onnxruntime

logger = logging.getLogger(__name__)


def provider_options() -> onnxruntime.SessionOptions | None:
    """Session options with the provider.

    Returns:
        None where the package is not installed, has no library for this platform, or is refused by ONNX Runtime.
    """
    try:
        import onnxruntime_ep_sparse as sparse
    except ImportError:
        return None
    if not Path(sparse.get_library_path()).is_file():
        return None
    try:
        options = sparse.session_options()
    except RuntimeError as error:
        logger.warning(f"onnxruntime-ep-sparse is not used: {error}")
        return None
    # Else ONNX Runtime warns in each session that the CPU provider runs some of the nodes.
    options.log_severity_level = 3
    return options
