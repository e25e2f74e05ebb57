"""What the CPU computes well: 8-bit integers without overflow, bfloat16 as fast as fp32."""

from pathlib import Path

import torch

_VNNI = {"avx512_vnni", "avx_vnni", "asimddp"}  # asimddp: ARM's instruction of the same kind


def has_vnni(cpuinfo: str | None = None) -> bool | None:
    """Whether the CPU adds products of 8-bit integers in 32 bits.

    Without VNNI, x86 adds pairs of them in 16 bits, where those of uint8 and full int8 overflow.

    Args:
        cpuinfo: the text of ``/proc/cpuinfo``; that of this machine by default.

    Returns:
        None where it is unknown: not Linux, or no list of flags.
    """
    if cpuinfo is None:
        try:
            cpuinfo = Path("/proc/cpuinfo").read_text()
        except OSError:
            return None
    flags = [line.partition(":")[2].split() for line in cpuinfo.splitlines() if line.startswith(("flags", "Features"))]
    return not _VNNI.isdisjoint(flags[0]) if flags else None


def weight_bits() -> int:
    """Bits of int8 weights whose sums this CPU computes without overflow; 8 where that is unknown."""
    return 7 if has_vnni() is False else 8


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 is not slower than fp32: a processor without AVX-512 is many times slower, says oneDNN."""
    known = device.type == "cpu" and torch.backends.mkldnn.is_available()
    return not known or torch.ops.mkldnn._is_mkldnn_bf16_supported()
