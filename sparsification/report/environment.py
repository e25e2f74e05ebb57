"""Description of the machine and the software that a measurement was made on."""

import importlib.metadata
import os
import platform
from pathlib import Path

# The instruction sets that the speed of fp32 and int8 depends on.
_FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
_PACKAGES = ("torch", "transformers", "accelerate", "datasets", "onnx", "onnxruntime")


def cpu_name() -> str:
    """Model name of the processor."""
    names = _cpuinfo("model name")
    return names[0] if names else platform.processor()


def cpu_flags() -> list[str]:
    """The instruction sets of the processor that the speed of fp32 and int8 depends on."""
    lines = _cpuinfo("flags") or _cpuinfo("Features")
    return [flag for flag in _FLAGS if lines and flag in lines[0].split()]


def machine_text() -> str:
    """The processor, its instruction sets, and the number of cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if "sched_getaffinity" in vars(os) else os.cpu_count()
    return f"{cpu_name()} ({', '.join(cpu_flags()) or 'flags unknown'}), {cores} cores for this process"


def versions() -> dict[str, str]:
    """Versions of Python and of the main packages."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def _cpuinfo(key: str) -> list[str]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
