"""Whether the CPU multiplies 8-bit integers without overflow."""

from pathlib import Path

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
