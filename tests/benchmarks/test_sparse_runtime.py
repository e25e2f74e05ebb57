"""The benchmarks of the sparse runtime compare what they say, and their tables leave nothing out."""

import itertools
import json
import math

import numpy as np
import pytest

from benchmarks import break_even, sparse_runtime, sparse_runtime_report
from benchmarks.break_even import FORMS, SHARES
from helpers.exports import needs_compiler
from sparsification.runtime.rewrite.cost import layer_cost


@needs_compiler
def test_layers_give_the_numbers_of_the_dense_one_where_no_weight_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(break_even, "SHARES", (0.25, 1.0))
    kernels = break_even.find_kernels()
    (dense, *sparse), work = break_even.make_layers(64, 32, kernels, tmp_path)
    assert list(work) == list(kernels) and len(sparse) == 2 * len(kernels)
    assert work["blocks"] == [32 * 16 / 4, 32 * 16]
    x = np.random.default_rng(0).integers(0, 256, (1, 5, 64)).astype(np.uint8)
    expected = dense.run(None, {"x": x})[0]
    for session in sparse[1::2]:
        np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, rtol=1e-6, atol=1e-6)


def test_break_even_lies_between_two_measured_shares():
    sparse = [10 * share for share in SHARES]
    assert break_even.break_even(2.5, sparse) == pytest.approx(0.25)
    assert break_even.break_even(0.1, sparse) == 0.0
    assert break_even.break_even(11.0, sparse) == 1.0


def test_fit_finds_the_constants_of_times_that_follow_them():
    cells = []
    for inputs, outputs, tokens in itertools.product((384, 768), (384, 1536), (128, 384)):
        work = [inputs * outputs * share for share in SHARES]
        times = [tokens * (0.02 * one + 0.2 * outputs) / 1e6 for one in work]
        forms = {form: {"times": times, "work": work} for form in FORMS}
        dense = tokens * (0.002 * inputs * outputs + 0.3 * outputs) / 1e6
        cells.append({"inputs": inputs, "outputs": outputs, "tokens": tokens, "dense": dense, **forms})
    constants = break_even.fit(cells)
    assert constants["dense"] == pytest.approx({"unit": 0.002, "output": 0.3, "median_error": 0.0})
    assert constants["windows"] == pytest.approx({"unit": 0.02, "output": 0.2, "median_error": 0.0})


@needs_compiler
def test_constants_of_the_library_are_those_that_were_measured():
    results = json.loads((break_even.ROOT / "benchmarks" / "break_even.json").read_text())
    assert len(results["cells"]) == len(break_even.LAYERS) * len(break_even.TOKENS)
    measured = {form: constants["unit"] for form, constants in results["constants"].items()}
    weight = np.random.default_rng(0).integers(-1, 2, (64, 256)).astype(np.int8)
    work, cost = layer_cost(weight)
    assert cost.dense / weight.size == pytest.approx(measured["dense"], rel=0.15)
    assert cost.blocks / work.blocks == pytest.approx(measured["blocks"], rel=0.15)
    if math.isfinite(work.windows):
        assert cost.windows / work.windows == pytest.approx(measured["windows"], rel=0.15)


def _cell(model, engine, threads, *wall, length=128):
    cell = {"shape": "minilm", "model": model, "engine": engine, "batch": 1, "length": length, "threads": threads}
    return cell | {"wall": wall, "cpu": [value / 2 for value in wall], "difference": 0.0}


def test_table_has_every_engine_and_what_was_refused():
    fp32, dense = sparse_runtime_report.FP32, sparse_runtime_report.DENSE
    name = sparse_runtime_report.variant_name("int8 1x4", 0.9)
    assert name == "int8 90 % 1x4"
    refused = _cell(name, "deepsparse", 1) | {"refused": "no environment: .venv-deepsparse has no deepsparse"}
    results = {
        **{
            "date": "2026-11-23",
            "cpu": "a CPU",
            "vnni": None,
            "rounds": 3,
            "clock": "wall",
            "variants": [name, "fp32 50 % saved"],
        },
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
    one = "| minilm * | 1 x 128 | 1 | int8 90 % 1x4 | 30.0 | 12.0 | 9.0 | not measured | 3.0 | 10.00x | 4.00x | 3.00x |"
    assert f"{one}  |" in text
    assert "fp32 50 % saved" not in text
    assert "- DeepSparse, int8 90 % 1x4: no environment: .venv-deepsparse has no deepsparse" in text
    assert "| minilm | 1 x 128 | int8 90 % 1x4, ours | 2 | 1.50x |" in text
    assert f"| minilm | {dense} | 22.0 MB |" in text
    assert "| A | 3.00 | 100% |" in text
    assert sparse_runtime_report.best(results) == {"shape": "minilm", "model": name, "batch": 1, "length": 128}


def test_a_run_goes_on_only_with_measurements_of_its_own_kind(tmp_path):
    own = {
        "cpu": "a CPU",
        "engines": {"onnxruntime": "1.32.0"},
        "rounds": 3,
        "clock": "wall",
        "variants": ["int8 80 %"],
    }
    page = own | {"variants": ["int8 90 %"], "files": {"minilm": {"int8 90 %": 14e6}}, "cells": [1], "profile": {}}
    output = tmp_path / "page.md"
    output.with_suffix(".json").write_text(json.dumps(page))
    sparse_runtime.keep_measured(own, output)
    assert own == page | {"variants": ["int8 90 %", "int8 80 %"]}
    with pytest.raises(SystemExit, match="was measured with cpu = a CPU, and now it is another"):
        sparse_runtime.keep_measured(own | {"cpu": "another"}, output)
