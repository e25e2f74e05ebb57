"""Sizes of files, compressed."""

import gzip
import random

import pytest

from sparsification.report.profiling import gzipped_size


def test_size_of_a_large_file_is_estimated_from_all_of_its_parts(tmp_path):
    noise, size = random.Random(0), 20 * 2**20
    (tmp_path / "half").write_bytes(noise.randbytes(size) + bytes(size))
    assert gzipped_size(tmp_path / "half") == pytest.approx(size, rel=0.05)
    (tmp_path / "small").write_bytes(b"a" * 1000)
    assert gzipped_size(tmp_path / "small") == len(gzip.compress(b"a" * 1000, 6))
