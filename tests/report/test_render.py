"""The report of a run: its figures are those of the run's files, and its page needs no network."""

import dataclasses
import gzip
import json
import math
import shlex
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import load_file

import run_qa
from sparsification.report.curves import panels
from sparsification.report.plots import draw_panel
from sparsification.report.render import headline, report_html
from sparsification.report.results import ModelResult, RunResult, load_result, save_result
from sparsification.report.tables import markdown, plain, result_table, transpose

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
SVG = "{http://www.w3.org/2000/svg}"
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
        f"--onnx_export_path {folder}/out/onnx --onnx_exporter torchscript --hub_token hf_secret".split()
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
    links = [value for e in html.iter() for name, value in e.attrib.items() if name.endswith(("src", "href"))]
    assert all(link.startswith("#") for link in links)  # within the page
    assert not [e for e in html.iter() if e.tag.rpartition("}")[2] in ("script", "link", "img", "image")]
    assert [element.text for element in html.iter("figcaption")] == [
        "EM and F1 on the evaluation data",
        "Encoder sparsity, %",
        "Training loss",
        "Learning rate",
        "Sparsity of each encoder layer, %",
        "Predictions equal to the teacher's, % of the features",
        "Schedule of the recipe",
    ]
    assert len(list(html.iter(f"{SVG}svg"))) == 7
    identifiers = [e.attrib["id"] for drawing in html.iter(f"{SVG}svg") for e in drawing.iter() if "id" in e.attrib]
    assert not [name for name in identifiers if name.startswith(("figure", "axes", "text"))]  # same in each drawing


def test_each_plot_has_the_curves_of_the_log(out, result):
    history = json.loads((out / "trainer_state.json").read_text())["log_history"]
    scores, sparsity, loss, rate, layers, agreement = panels(result, history)
    assert [line.label for line in scores.lines[:2]] == ["F1", "EM"]
    for line, name in zip(scores.lines, ("eval_f1", "eval_exact_match"), strict=False):
        assert line.points == [(row["epoch"], row[name]) for row in history if name in row]
    assert [line.label for line in sparsity.lines] == ["encoder", "target"]
    assert sparsity.lines[0].points[-1][1] == pytest.approx(75, abs=0.1)
    assert sparsity.lines[1].points[-1] == (2.0, 75.0)
    assert [line.label for line in loss.lines] == ["total loss", "task loss", "distillation loss"]
    assert [point[1] for point in rate.lines[0].points] == [row["learning_rate"] for row in history if "loss" in row]
    assert [line.label for line in layers.lines] == ["layer 0", "layer 1"]
    assert all(0 <= share <= 100 for _, share in agreement.lines[0].points)


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
        [ElementTree.tostring(drawing) for drawing in page(folder / "report.html").iter(f"{SVG}svg")]
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


def test_run_that_logs_and_evaluates_ends_with_the_weights_of_a_silent_one(
    tiny_model_dir, tiny_squad, tmp_path, monkeypatch
):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    runs = {
        "silent": "--logging_strategy no --report_to none",
        "loud": "--report_to tensorboard --eval_strategy steps --eval_steps 1",
    }
    for name, flags in runs.items():
        run_qa.main(
            f"--model_name_or_path {tiny_model_dir} --do_train --do_eval --output_dir {tmp_path}/{name} {COMMON} "
            f"{flags} --dataset_name {tiny_squad} --recipe {tmp_path}/recipe.yaml --distill_teacher self".split()
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
    assert head == ["", "parameters", "sparsity", "file", "gzipped"]
    assert len({len(line) for line in plain((head, rows)).splitlines()}) == 1


def test_low_score_fills_its_axis_where_sparsity_has_an_axis_of_its_own(result):
    history = [{"epoch": e, "eval_f1": 2.0 + e, "eval_exact_match": 1.0, "eval_sparsity": e / 4} for e in (1.0, 2.0)]
    bare = dataclasses.replace(result, models=[])
    scores, sparsity = panels(bare, history)
    low, high = draw_panel(scores, 2.0).axes[0].get_ylim()
    assert 0 < low < 1.0 and 4.0 < high < 5.0
    assert draw_panel(sparsity, 2.0).axes[0].get_ylim()[1] > 100


def test_teacher_is_drawn_beside_the_score_that_counts(result):
    teacher = ModelResult(name="teacher", scores={"EM": 10.0, "F1": 20.0})
    scores = panels(dataclasses.replace(result, models=[teacher]), [{"epoch": 1.0, "eval_f1": 9.0}])[0]
    (own, line) = draw_panel(scores, 2.0).axes[0].lines
    assert (line.get_label(), set(line.get_ydata())) == ("F1 of the teacher", {20.0})
    assert own.get_label() == "F1"


def test_curve_that_another_one_covers_is_left_out(result):
    losses = {"DistillationModifier/total_loss": 3.0, "DistillationModifier/distillation_loss": 3.0}
    history = [{"epoch": 1.0, "learning_rate": 0.1, "DistillationModifier/task_loss": 1.0, **losses}]
    loss = next(panel for panel in panels(result, history) if panel.title == "Training loss")
    assert [line.label for line in loss.lines] == ["task loss", "distillation loss"]


def test_run_that_prunes_nothing_has_no_plot_of_sparsity(result):
    history = [{"epoch": 1.0, "loss": 1.0, "sparsity/encoder": 0.0, "eval_f1": 3.0}]
    assert not [panel for panel in panels(result, history) if "sparsity" in panel.title]


def test_headline_is_of_the_exported_model(result):
    exported, teacher = result.model("ONNX"), result.model("teacher")
    tiles = {name: (value, note) for name, value, note in headline(result)}
    assert tiles["F1"] == (f"{exported.scores['F1']:.1f}", f"teacher: {teacher.scores['F1']:.1f}")
    assert tiles["Encoder sparsity"][0] == "75.0%"
    assert tiles["Latency"][1] == "ONNX, one thread"
    bare = dataclasses.replace(result, models=[ModelResult(name="student", scores={})])
    assert headline(bare) == []


def test_command_has_a_flag_a_line_and_is_still_the_same_command(result):
    command = "python run_qa.py --do_train --recipe 'my recipe.yaml' --recipe_args '{\"a\": 1}'"
    html = ElementTree.fromstring(
        report_html(dataclasses.replace(result, command=command), []).removeprefix("<!DOCTYPE html>")
    )
    shown = next(html.iter("pre")).text
    assert shlex.split(shown.replace("\\\n", "")) == shlex.split(command)
    assert shown.count("\n") == 3


def test_transposed_table_has_a_column_for_each_model(result):
    head, rows = result_table(result)
    turned_head, turned_rows = transpose((head, rows))
    assert turned_head == ["", "teacher", "student", "ONNX"]
    assert [row[0] for row in turned_rows] == head[1:]
    assert transpose((turned_head, turned_rows)) == (head, rows)
