"""On what machine was this measured?"""

import platform
from pathlib import Path


def cpu_name() -> str:
    """The processor's model, as the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
