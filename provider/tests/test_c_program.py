"""The example in C, compiled against the library of ONNX Runtime that is in its Python package."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import onnxruntime_ep_sparse as sparse
from helpers.exports import INPUTS, export_model, make_bert, prune_model

FOLDER = Path(__file__).resolve().parents[1] / "examples" / "c"


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    (folder / "libonnxruntime.so.1").symlink_to(library)  # the name that a program looks for
    command = [*shlex.split(os.environ.get("CC", "cc")), "-std=c11", "-Wall", "-Wextra", "-Werror"]
    command += ["-I", FOLDER / "include", FOLDER / "run_model.c", folder / "libonnxruntime.so.1"]
    subprocess.run([*command, f"-Wl,-rpath,{folder}", "-o", folder / "run_model"], check=True)
    return folder / "run_model"


def run(*command):
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)


def test_outputs_are_those_of_python(program, tmp_path):
    export_model(prune_model(make_bert(1)).eval(), tmp_path)
    path, report = tmp_path / "model.onnx", tmp_path / "report.jsonl"
    result = run(program, sparse.get_library_path(), path, report)
    assert (result.returncode, result.stderr) == (0, "")
    values = ([1, 2, 3, 4, 5, 6, 7, 8], [1] * 8, [0] * 8)
    feed = {name: np.array([value], np.int64) for name, value in zip(INPUTS, values, strict=True)}
    expected = onnxruntime.InferenceSession(path, sparse.session_options()).run(None, feed)[0][0]
    np.testing.assert_allclose([float(line) for line in result.stdout.split()], expected, rtol=1e-5)
    assert sum(bool(json.loads(line)["taken"]) for line in report.read_text().splitlines()) == 6


def test_errors_are_those_of_onnxruntime(program, tmp_path):
    result = run(program, sparse.get_library_path(), tmp_path / "model.onnx")
    assert result.returncode == 1
    assert "model.onnx failed" in result.stderr
    assert run(program).returncode == 2
