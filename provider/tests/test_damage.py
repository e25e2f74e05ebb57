"""The provider on damaged files."""

import pytest

from helpers.damaged_files import assert_survives


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_do_not_crash(tmp_path, seed):
    """Models with random initializers, shapes and attributes."""
    assert_survives("provider", tmp_path, seed)
