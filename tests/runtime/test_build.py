"""The library of sparse operators: compiling, finding and checking it."""

import os
import subprocess
import sys

import pytest

from helpers import ROOT
from helpers.exports import (
    NO_COMPILER,
    needs_compiler,
)
from helpers.runtime_driver import build_driver, check_output
from sparsification.runtime.build import BuildError, build, compile_sources, find_compiler


@needs_compiler
def test_sanitizers_find_nothing(tmp_path):
    flags = ["-O0", "-g1", "-w", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    driver = build_driver(find_compiler(), tmp_path, flags)
    result = subprocess.run([str(driver)], capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    check_output(result.stdout)


@pytest.mark.parametrize(
    ("target", "refused", "sets"),
    [
        ("__x86_64__", "nothing", ["plain", "avx512_vbmi", "avx512_vnni", "avx_vnni", "avx2"]),
        ("__x86_64__", "-mavxvnni", ["plain", "avx512_vbmi", "avx512_vnni", "avx2"]),
        ("__aarch64__", "nothing", ["plain", "dotprod"]),
        ("__aarch64__", "-march=", ["plain", "dotprod"]),  # Zig has another spelling
        ("__aarch64__", "dotprod", ["plain"]),
        ("__riscv", "nothing", ["plain"]),
    ],
)
def test_target_of_the_compiler_decides_which_instruction_sets_are_compiled(tmp_path, target, refused, sets):
    compiler = tmp_path / "c++"
    compiler.write_text(
        f'#!/bin/sh\ncase "$*" in *-dM*) echo "#define {target} 1" ;; *{refused}*) exit 1 ;; esac\n', encoding="utf-8"
    )
    compiler.chmod(0o755)
    assert [path.stem for path in compile_sources([str(compiler)], tmp_path, [])] == sets


@needs_compiler
def test_library_is_built_once():
    path = build()
    before = path.stat().st_mtime_ns
    command = [sys.executable, "-m", "sparsification.runtime.build"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == str(path)
    assert path.stat().st_mtime_ns == before


@needs_compiler
@pytest.mark.parametrize("name", ["plain", "no_such_cpu"])
def test_environment_chooses_the_instruction_set(name):
    code = (
        "import onnxruntime, sparsification.runtime.build as r; o = onnxruntime.SessionOptions(); "
        "o.register_custom_ops_library(str(r.build())); print('registered')"
    )
    environment = os.environ | {"SPARSIFICATION_CPU": name}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    if name == "plain":
        assert result.stdout.strip() == "registered"
    else:
        assert "SPARSIFICATION_CPU=no_such_cpu: here there are only " in result.stderr


def test_missing_compiler_is_an_error_of_one_line(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name not in ("CC", "CXX")}
    command = [sys.executable, "-m", "sparsification.runtime.build"]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment | {"PATH": str(tmp_path)}, check=False
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == NO_COMPILER + ". Everything else works without it.\n"


def test_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    fake = tmp_path / "c++"
    fake.write_text("#!/bin/sh\necho 'error: it is broken' >&2\nexit 1\n", encoding="utf-8")
    fake.chmod(0o755)
    monkeypatch.setenv("CXX", str(fake))
    with pytest.raises(BuildError, match="did not build: .*\n.*it is broken"):
        build()
