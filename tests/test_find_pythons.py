"""Pythons that make test-matrix finds."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from helpers import ROOT


def make_python(path: Path, *, works: bool) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nexit {0 if works else 127}\n")
    path.chmod(0o755)
    return path


@pytest.mark.skipif(os.name != "posix", reason="a shell script")
def test_one_python_of_each_version_is_found_and_broken_ones_are_passed_over(tmp_path):
    on_path = make_python(tmp_path / "bin" / "python3.12", works=True)
    make_python(tmp_path / "bin" / "python3.13", works=False)  # as pyenv's shim of a version that is not chosen
    of_pyenv = make_python(tmp_path / "pyenv" / "versions" / "3.13.1" / "bin" / "python3.13", works=True)
    make_python(tmp_path / "pyenv" / "versions" / "3.12.4" / "bin" / "python3.12", works=True)  # there is one already
    done = subprocess.run(
        [shutil.which("sh"), ROOT / "tests" / "find_pythons.sh"],
        env={"PATH": str(tmp_path / "bin"), "PYENV_ROOT": str(tmp_path / "pyenv"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(on_path), str(of_pyenv)]
