"""The benchmarks of the sparse runtime compare what they say, and their tables leave nothing out."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks import break_even, sparse_runtime_report
from benchmarks.break_even import SHARES, write_layer
from helpers.exports import needs_compiler
from sparsification.runtime.rewrite import BREAK_EVEN


def test_dense_layer_runs_as_it_does_in_an_exported_model(tmp_path):
    path = write_layer(np.ones((16, 8), np.int8), tmp_path / "layer.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    nodes = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert nodes == ["MatMulIntegerToFloat", "Add"]


@needs_compiler
def test_layers_have_their_shares_of_blocks_and_give_the_dense_ones_numbers(tmp_path):
    dense, *sparse = break_even.write_layers(64, 32, tmp_path)
    x = np.random.default_rng(0).integers(0, 256, (1, 5, 64)).astype(np.uint8)
    for share, path in zip(SHARES, sparse, strict=True):
        values = [t for t in onnx.load(path).graph.initializer if t.name.endswith(".values")]
        assert values[0].dims[0] == pytest.approx(share * 32 * 16, abs=1)
    full = break_even.load_session(sparse[-1], threads=1).run(None, {"x": x})[0]
    np.testing.assert_allclose(full, break_even.load_session(dense, threads=1).run(None, {"x": x})[0], rtol=1e-6)


def test_break_even_lies_between_two_measured_shares():
    sparse = [10 * share for share in SHARES]
    assert break_even.break_even(5.5, sparse) == pytest.approx(0.55)
    assert break_even.break_even(0.5, sparse) == 0.0
    assert break_even.break_even(11.0, sparse) == 1.0


def test_constant_is_below_every_measured_break_even():
    results = json.loads((break_even.ROOT / "benchmarks" / "break_even.json").read_text())
    assert len(results["cells"]) == len(break_even.LAYERS) * len(break_even.TOKENS)
    assert min(cell["break_even"] for cell in results["cells"]) >= BREAK_EVEN


def _cell(model, engine, threads, *wall, length=128):
    cell = {"shape": "minilm", "model": model, "engine": engine, "batch": 1, "length": length, "threads": threads}
    return cell | {"wall": wall, "cpu": [value / 2 for value in wall], "difference": 0.0}


def test_table_has_every_engine_and_what_was_refused():
    fp32, dense = sparse_runtime_report.FP32, sparse_runtime_report.DENSE
    name = sparse_runtime_report.variant_name("int8 1x4", 0.9)
    assert name == "int8 90 % 1x4"
    refused = _cell(name, "deepsparse", 1) | {"refused": "no environment: .venv-deepsparse has no deepsparse"}
    results = {
        **{"date": "2026-11-23", "cpu": "a CPU", "vnni": None, "rounds": 3, "clock": "wall", "variants": [name]},
        "engines": {"onnxruntime": "1.32.0", "openvino": "2026.4-x", "deepsparse": None},
        "files": {"minilm": {fp32: 90e6, dense: 22e6, name: 14e6}},
        "cells": [
            *(_cell(fp32, "onnxruntime", 1, 30.0, 99.0, 30.0), _cell(dense, "onnxruntime", 1, 12.0)),
            *(_cell(dense, "openvino", 1, 9.0), refused, _cell(name, "onnxruntime", 1, 3.0)),
            *(_cell(name, "onnxruntime", 2, 2.0), _cell(fp32, "onnxruntime", 2, 15.0)),
        ],
        "profile": {"of": {"shape": "minilm", "model": name, "batch": 1, "length": 128}, "milliseconds": {"A": 3.0}},
    }
    text = sparse_runtime_report.report(results)
    one = (
        "| minilm | 1 x 128 | 1 | int8 90 % 1x4 | 30.0 | 12.0 | 9.0 | not measured | 3.0 | 10.00x | 4.00x | 3.00x |  |"
    )
    assert one in text
    assert "- DeepSparse, int8 90 % 1x4: no environment: .venv-deepsparse has no deepsparse" in text
    assert "| minilm | 1 x 128 | int8 90 % 1x4, ours | 2 | 1.50x |" in text
    assert "| minilm | 90.0 MB | 22.0 MB | 14.0 MB |" in text
    assert "| A | 3.00 | 100% |" in text
    assert sparse_runtime_report.best(results) == {"shape": "minilm", "model": name, "batch": 1, "length": 128}
