"""The library for the tests: compiled here, unless it is there already."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import build_library


@pytest.fixture(scope="session", autouse=True)
def library() -> Path:
    path = build_library.library_path()
    return path if path.exists() else build_library.build()
