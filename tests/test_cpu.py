"""What the CPU computes well, as its description says."""

import pytest

from sparsification import cpu

CPUINFO = "processor\t: 0\nmodel name\t: A CPU\nflags\t\t: fpu avx2 {}\nprocessor\t: 1\nflags\t\t: fpu\n"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (CPUINFO.format("avx512f avx512_vnni"), True),
        (CPUINFO.format("avx_vnni"), True),
        (CPUINFO.format("avx512f"), False),
        ("processor\t: 0\nFeatures\t: fp asimd asimddp\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        ("processor\t: 0\n", None),
        ("", None),
    ],
)
def test_vnni_is_read_from_cpuinfo(cpuinfo, expected):
    assert cpu.has_vnni(cpuinfo) is expected


@pytest.mark.parametrize(("vnni", "bits"), [(True, 8), (None, 8), (False, 7)])
def test_weights_have_a_bit_less_where_sums_overflow(vnni, bits, monkeypatch):
    monkeypatch.setattr(cpu, "has_vnni", lambda: vnni)
    assert cpu.weight_bits() == bits
