"""Does the report of a run say what the run's files say, and can it be read without a network?"""

import dataclasses
import gzip
import json
import math
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import load_file

import run_qa
from sparsification.report.results import RunResult, load_result, save_result
from sparsification.report.tables import markdown, plain, result_table

RECIPE = """
modifiers:
  - !EpochRangeModifier
    end_epoch: 2.0
  - !GMPruningModifier
    params: ['re:bert.encoder.*(query|key|value|dense).weight']
    init_sparsity: 0.0
    final_sparsity: 0.75
    start_epoch: 0.5
    end_epoch: 1.5
    update_frequency: 0.2
  - !DistillationModifier
    hardness: 0.5
"""
COMMON = "--use_cpu --max_seq_length 64 --doc_stride 16 --per_device_train_batch_size 4 --logging_steps 1"


@pytest.fixture(scope="module")
def out(tiny_model_dir, tiny_squad, tmp_path_factory) -> Path:
    """The folder of a run by a recipe, with a teacher that was evaluated and an export."""
    folder = tmp_path_factory.mktemp("report")
    shutil.copytree(tiny_model_dir, folder / "teacher")
    data = f"--dataset_name {tiny_squad} {COMMON}"
    run_qa.main(
        f"--model_name_or_path {folder}/teacher --do_eval --output_dir {folder}/teacher {data} "
        "--overwrite_output_dir".split()
    )
    (folder / "recipe.yaml").write_text(RECIPE)
    run_qa.main(
        f"--model_name_or_path {tiny_model_dir} --do_train --do_eval --eval_strategy epoch --output_dir {folder}/out "
        f"{data} --save_strategy epoch --recipe {folder}/recipe.yaml --distill_teacher {folder}/teacher "
        f"--onnx_export_path {folder}/out/onnx --hub_token hf_secret".split()
    )
    return folder / "out"


@pytest.fixture(scope="module")
def result(out) -> RunResult:
    return load_result(out)


def page(path: Path) -> ElementTree.Element:
    """A page of HTML that is well-formed XML, too."""
    return ElementTree.fromstring(path.read_text().removeprefix("<!DOCTYPE html>"))


def test_table_says_what_the_results_and_the_weights_say(out, result):
    results = json.loads((out / "all_results.json").read_text())
    teacher_results = json.loads((out.parent / "teacher/eval_results.json").read_text())
    teacher, student, exported = result.models
    assert teacher.scores == {"EM": teacher_results["eval_exact_match"], "F1": teacher_results["eval_f1"]}
    assert student.scores == {"EM": results["eval_exact_match"], "F1": results["eval_f1"]}
    assert exported.scores == {"EM": results["eval_onnx_exact_match"], "F1": results["eval_onnx_f1"]}
    weights = load_file(out / "model.safetensors")
    matrices = [w for name, w in weights.items() if ".encoder." in name and w.dim() == 2]
    zeros = sum(int((w == 0).sum()) for w in matrices) / sum(w.numel() for w in matrices)
    assert student.sparsity == exported.sparsity == zeros == pytest.approx(0.75, abs=1e-3)
    assert teacher.sparsity == 0.0
    assert student.parameters == sum(w.numel() for w in weights.values())
    content = (out / "onnx/model.onnx").read_bytes()
    assert (exported.size, exported.gzipped) == (len(content), len(gzip.compress(content, 6)))
    assert all(model.latency > 0 and model.throughput > 0 for model in result.models)
    if teacher_results["eval_f1"]:
        assert result.recovery(student) == results["eval_f1"] / teacher_results["eval_f1"]


def test_report_needs_nothing_beside_it_and_shows_every_plot(out):
    html = page(out / "report.html")
    assert not [e for e in html.iter() if {"src", "href"} & set(e.attrib) or e.tag in ("script", "link", "img")]
    titles = [element.text for element in html.iter("h2")]
    assert titles == [
        "Scores and zeros in the encoder, percent",
        "Zeros in each layer, percent",
        "Losses",
        "Teacher agreement, percent of the features",
        "Learning rate",
        "The recipe's modifiers and their time",
        "The run",
        "The recipe",
    ]
    drawings = list(html.iter("{http://www.w3.org/2000/svg}svg"))
    assert len(drawings) == 6
    assert len(list(drawings[-1].iter("{http://www.w3.org/2000/svg}rect"))) == 3  # one for each modifier
    assert len(list(drawings[0].iter("{http://www.w3.org/2000/svg}polyline"))) == 4  # EM, F1, zeros, their goal


def test_both_reports_tell_how_to_do_it_again_without_secrets(out, result):
    for name in ("report.md", "report.html"):
        text = (out / name).read_text()
        assert "--distill_teacher" in text
        assert result.versions["torch"] == torch.__version__ and torch.__version__ in text
        assert "final_sparsity: 0.75" in text
        assert "hf_secret" not in text
    assert "hf_secret" not in (out / "report.json").read_text()
    assert result.data["training"].startswith("18 features, sha256 ")
    assert markdown(result_table(result)) in (out / "report.md").read_text()
    assert not list(out.glob("*.partial"))


def test_resumed_run_reports_the_whole_curve(out, tiny_model_dir, tiny_squad, tmp_path):
    shutil.copytree(out / "checkpoint-5", tmp_path / "out/checkpoint-5")
    run_qa.main(
        f"--model_name_or_path {tiny_model_dir} --do_train --do_eval --eval_strategy epoch --save_strategy no "
        f"--output_dir {tmp_path}/out --dataset_name {tiny_squad} {COMMON} --recipe {out.parent}/recipe.yaml "
        f"--distill_teacher {out.parent}/teacher".split()
    )
    first, second = (
        [e.attrib["points"] for e in page(folder / "report.html").iter("{http://www.w3.org/2000/svg}polyline")]
        for folder in (out, tmp_path / "out")
    )
    assert second == first


def test_model_card_has_the_figures_in_the_hubs_format(out, result):
    card = ModelCard.load(out / "README.md")
    student, exported = result.models[1:]
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found == student.scores | {f"{label} (ONNX)": value for label, value in exported.scores.items()}
    assert {result.task_type for result in card.data.eval_results} == {"question-answering"}
    assert card.data.base_model is None and card.data.datasets is None  # folders, and the hub takes names
    assert all(validate_repo_id(result.dataset_type) is None for result in card.data.eval_results)
    assert markdown(result_table(result)) in card.text
    assert str(out.parent.parent) not in card.text.partition("## Model description")[0]


def test_reported_run_ends_with_the_weights_of_a_silent_one(tiny_model_dir, tiny_squad, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    runs = {"silent": "--logging_strategy no --report_to none", "loud": f"{COMMON} --report_to tensorboard"}
    for name, flags in runs.items():
        run_qa.main(
            f"--model_name_or_path {tiny_model_dir} --do_train --output_dir {tmp_path}/{name} {COMMON} {flags} "
            f"--dataset_name {tiny_squad} --recipe {tmp_path}/recipe.yaml --distill_teacher self".split()
        )
    silent, loud = (load_file(tmp_path / name / "model.safetensors") for name in runs)
    assert all(torch.equal(silent[name], loud[name]) for name in silent)


def test_facts_are_read_as_they_were_written(result, tmp_path):
    save_result(result, tmp_path)
    assert load_result(tmp_path) == result
    assert [window.end for window in result.windows] == [2.0, math.inf, 1.5]


def test_table_leaves_out_what_is_not_known(result):
    bare = [dataclasses.replace(model, scores={}, latency=None, throughput=None) for model in result.models]
    head, rows = result_table(dataclasses.replace(result, models=bare))
    assert head == ["", "parameters", "zeros", "file", "gzipped"]
    assert len({len(line) for line in plain((head, rows)).splitlines()}) == 1
