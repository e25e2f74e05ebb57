"""Creates one session on one thread. Prints its milliseconds, and by how many kB the process grows. Linux.

python benchmarks/session_worker.py MODEL cpu|provider
"""

import sys
import time
from pathlib import Path

import onnxruntime

import onnxruntime_ep_sparse as sparse


def main() -> None:
    """Create a session; print the processor time, and the growth at the peak and afterwards."""
    path, provider = sys.argv[1:]
    sparse.register()
    options = sparse.session_options() if provider == "provider" else onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    providers = {} if provider == "provider" else {"providers": ["CPUExecutionProvider"]}
    Path("/proc/self/clear_refs").write_text("5")  # makes the peak the present size
    before, start = _kilobytes("VmRSS"), time.process_time()
    session = onnxruntime.InferenceSession(path, options, **providers)
    milliseconds = 1000 * (time.process_time() - start)
    print(milliseconds, _kilobytes("VmHWM") - before, _kilobytes("VmRSS") - before)
    del session


def _kilobytes(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


if __name__ == "__main__":
    main()
