"""The benchmark of exported models times what it says, and its table leaves nothing out."""

import pytest
import torch
from transformers import AutoModelForQuestionAnswering

from benchmarks import engine_worker, onnx_engines_report
from benchmarks.onnx_engines import PYTHONS, VARIANTS, Entrant, Worker, export, measure, sizes, transform
from sparsification.quantization.modules import fake_quant_enabled

BY_NAME = {variant.name: variant for variant in VARIANTS}
SHAPE = {"batch": 2, "length": 16, "vocabulary": 60}


def encoder_weights(model) -> list[torch.Tensor]:
    return [weight for name, weight in model.named_parameters() if ".layer." in name and weight.dim() == 2]


@pytest.mark.parametrize("variant", VARIANTS, ids=BY_NAME)
def test_recipe_makes_what_the_name_says(variant, tiny_model_dir):
    model = AutoModelForQuestionAnswering.from_pretrained(tiny_model_dir).eval()
    transform(model, variant)
    assert fake_quant_enabled(model) == ("int8" in variant.name)
    assert model.config.num_hidden_layers == len(model.bert.encoder.layer) == (1 if "half" in variant.name else 2)
    for weight in encoder_weights(model):
        assert (weight == 0).float().mean() == pytest.approx(0.9 if "90 %" in variant.name else 0, abs=0.02)
        if "x" in variant.name.split()[-1]:
            rows, columns = map(int, variant.name.split()[-1].split("x"))
            blocks = (weight == 0).unflatten(1, (-1, columns)).unflatten(0, (-1, rows))
            assert torch.equal(blocks.all(dim=(1, 3)), blocks.any(dim=(1, 3)))


@pytest.fixture(scope="module")
def exported(tiny_model_dir, tmp_path_factory):
    names = onnx_engines_report.FP32, onnx_engines_report.INT8
    return {name: export(BY_NAME[name], tiny_model_dir, tmp_path_factory.mktemp("work")) for name in names}


@pytest.fixture(scope="module")
def results(exported, tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    nowhere = folder / ".venv-openvino" / "bin" / "python"
    workers = [Worker("onnxruntime", PYTHONS["onnxruntime"], folder), Worker("openvino", nowhere, folder)]
    entrants = [Entrant(name, worker, paths[worker.engine]) for name, paths in exported.items() for worker in workers]
    cells = measure(entrants, 2, 0.0, SHAPE)
    for worker in workers:
        worker.stop()
    return {
        **{"date": "2026-11-23", "cpu": "a CPU", "vnni": None, "system": "Linux", "model": "tiny", "clock": "wall"},
        **{"rounds": 2, "zstd_level": 1, "batches": [2], "lengths": [16], "models": list(exported)},
        "files": {name: sizes(paths, 1) for name, paths in exported.items()},
        "engines": {worker.engine: worker.version for worker in workers},
        "cells": cells,
    }


def test_every_model_has_a_cell_in_every_engine(results):
    cells = {(cell["model"], cell["engine"]): cell for cell in results["cells"]}
    assert len(cells) == 4
    for (_, engine), cell in cells.items():
        if engine == "onnxruntime":
            assert len(cell["wall"]) == len(cell["cpu"]) == 2 and min(cell["wall"]) > 0
            assert cell["difference"] == 0
        else:
            assert "no environment" in cell["refused"]


def test_report_gives_ratios_to_the_dense_model_and_reasons(results):
    lines = onnx_engines_report.report(results).splitlines()
    dense = next(line for line in lines if line.startswith("| fp32 dense | ONNX Runtime"))
    assert ", 1.00x |" in dense and " MB, 1.00x |" in dense
    assert "refused: no environment" in next(line for line in lines if line.startswith("| int8 dense | OpenVINO"))
    widths = {
        line.count("|") for line in lines if line.startswith("| ") and "promise" not in line and "bar" not in line
    }
    assert len(widths) <= 2  # the table and the bars


def test_bars_are_held_against_the_medians():
    def cell(model, engine, length, *milliseconds):
        return {"model": model, "engine": engine, "batch": 1, "length": length, "wall": milliseconds}

    fp32, int8, sparse = onnx_engines_report.FP32, onnx_engines_report.INT8, onnx_engines_report.INT8_1X4
    cells = [
        cell(fp32, "onnxruntime", 128, 30.0, 30.0, 90.0),
        cell(int8, "onnxruntime", 128, 12.0, 99.0, 12.0),
        cell(sparse, "deepsparse", 128, 7.5, 7.5, 1.0),
    ]
    files = {
        name: {key: {"bytes": size} for key in ("onnxruntime", "deepsparse")} for name, size in ((fp32, 4), (int8, 1))
    }
    rows = onnx_engines_report.bars(
        {"clock": "wall", "files": files}, {(c["model"], c["engine"], 1, c["length"]): c for c in cells}
    )
    said = {promise: found for promise, *found in rows}
    against = ", batch 1, length 128, against fp32 dense in ONNX Runtime"
    assert said[f"{int8} in ONNX Runtime{against}"] == ["2.4x", "2.50x", "yes"]
    assert said[f"{sparse} in DeepSparse{against}"] == ["5.0x", "4.00x", "no"]
    assert said["file of int8 dense for ONNX Runtime, against fp32 dense"] == ["at most 0.27x", "0.250x", "yes"]


def test_dead_engine_costs_one_model_only(exported, tmp_path, monkeypatch):
    worker = Worker("onnxruntime", PYTHONS["onnxruntime"], tmp_path)
    good = exported[onnx_engines_report.FP32]["onnxruntime"]
    assert "outputs" in worker.ask({"do": "load", "name": "good", "path": str(good)} | SHAPE)
    worker._process.kill()
    assert "died" in worker.ask({"do": "load", "name": "bad", "path": str(good)} | SHAPE)["error"]
    assert worker.ask({"do": "time", "name": "good", "seconds": 0.0})["wall"]
    assert "error" in worker.ask({"do": "time", "name": "bad", "seconds": 0.0})
    worker.stop()


def test_refused_model_is_answered_with_the_reason(tmp_path):
    worker = Worker("onnxruntime", PYTHONS["onnxruntime"], tmp_path)
    (tmp_path / "no.onnx").write_bytes(b"nothing")
    answer = worker.ask({"do": "load", "name": "no", "path": str(tmp_path / "no.onnx")} | SHAPE)
    worker.stop()
    assert "InvalidProtobuf" in answer["error"]


def test_features_are_within_the_vocabulary():
    made = engine_worker.features(4, 24, 50)
    assert made["input_ids"].shape == (4, 24) and made["input_ids"].max() < 50
    assert len(set(made["input_ids"].ravel())) == 50
