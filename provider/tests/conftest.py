"""The library for the tests: compiled here, unless it is there already."""

from pathlib import Path

import build_library
import pytest


@pytest.fixture(scope="session", autouse=True)
def library() -> Path:
    path = build_library.library_path()
    return path if path.exists() else build_library.build()
