"""Creates one session and prints by how many kB the process has grown, at its peak and afterwards. Linux.

python benchmarks/session_worker.py MODEL cpu|provider
"""

import sys
from pathlib import Path

import onnxruntime

import onnxruntime_ep_sparse as sparse


def create(path: Path, with_provider: bool) -> onnxruntime.InferenceSession:
    """Create a session on one thread."""
    options = sparse.session_options() if with_provider else onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    providers = {} if with_provider else {"providers": ["CPUExecutionProvider"]}
    return onnxruntime.InferenceSession(path, options, **providers)


def main() -> None:
    """Create a session and print the growth."""
    sparse.register()
    Path("/proc/self/clear_refs").write_text("5")  # makes the peak the present size
    before = _kilobytes("VmRSS")
    session = create(Path(sys.argv[1]), sys.argv[2] == "provider")
    print(_kilobytes("VmHWM") - before, _kilobytes("VmRSS") - before)
    del session


def _kilobytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
