"""The report of ``check``: schedules, sizes and warnings, and exit codes.

Schedules are compared with closed forms written down here, sizes with files that are really compressed, and what a
model becomes with what the manager makes of it.
"""

import json
import math
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    ViTConfig,
    ViTForImageClassification,
)

from helpers import GOLDEN as FOLDER
from helpers import ROOT
from sparsification.base import Modifier
from sparsification.check.estimate import build_model, gzipped_bytes
from sparsification.check.report import CheckError, check
from sparsification.check.timeline import Timeline, text_lines
from sparsification.cli.main import main
from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import MODIFIERS
from sparsification.pruning.masks import compute_mask, num_pruned
from sparsification.recipe.loader import load_recipe
from sparsification.recipe.summary import RecipeSummary

RECIPES = [path for path in sorted((ROOT / "recipes").glob("*.md")) if path.name != "README.md"]
RECIPES.append(ROOT / "quickstart" / "recipe.yaml")
GOLDEN = json.loads((FOLDER / "recipes/recipes.json").read_text())
OLD = [name for name in GOLDEN if name.startswith("old/")]

RUN = "  - !EpochRangeModifier {end_epoch: 10.0}\n"
PRUNING = r"""  - !GMPruningModifier
    params: ['re:.*(query|key)\.weight']
    init_sparsity: 0.0
    final_sparsity: 0.8
    start_epoch: 2.0
    end_epoch: 6.0
"""
QUANTIZATION = "  - !QuantizationModifier {start_epoch: 7.0, disable_quantization_observer_epoch: 8.0}\n"
DECAY = (
    "  - !LearningRateFunctionModifier "
    "{lr_func: linear, init_lr: 3.0e-5, final_lr: 0.0, start_epoch: 0.0, end_epoch: %s}\n"
)
SOUND = RUN + PRUNING + QUANTIZATION + DECAY % 10.0


def write(folder: Path, modifiers: str, head: str = "") -> str:
    path = folder / "recipe.yaml"
    path.write_text(f"{head}modifiers:\n{modifiers}", encoding="utf-8")
    return str(path)


def warnings_of(folder: Path, modifiers: str, head: str = "", **options) -> list[str]:
    return check(write(folder, modifiers, head), **options)[1]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A BERT of four layers, its weights in the folder, half of those of layer 0's query at zero."""
    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32)
    model = BertForQuestionAnswering(config)
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.query.weight[:8] = 0.0
    model.save_pretrained(folder)
    return str(folder)


# What is shipped, and what is old


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipe_has_no_warnings(path):
    report, warnings = check(str(path))
    assert warnings == []
    assert "No warnings." in report


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_that_training_writes_has_no_warnings(path, tmp_path):
    (tmp_path / "recipe.yaml").write_text(load_recipe(path).to_yaml(), encoding="utf-8")
    assert main(["check", "--strict", str(tmp_path / "recipe.yaml")]) == 0


@pytest.mark.parametrize("name", OLD)
def test_legacy_recipe_has_warnings_about_its_dots_only(name, tmp_path):
    path = tmp_path / "old.yaml"
    path.write_text(GOLDEN[name]["str"], encoding="utf-8")
    report, warnings = check(str(path))
    assert [text.partition(": ")[2].partition(":")[0] for text in warnings] == ["GMPruningModifier"]
    assert "(in 5 more patterns too); to match dots, write" in warnings[0]
    assert max(map(len, report.split("\n\nwarning")[0].splitlines())) <= 100


def test_sound_recipe_has_no_warnings_with_and_without_a_model(tmp_path, model_dir):
    assert warnings_of(tmp_path, SOUND) == []
    assert warnings_of(tmp_path, SOUND, model_name=model_dir) == []


# Doubts


@pytest.mark.parametrize(
    ("modifiers", "line", "words"),
    [
        (PRUNING, None, "no EpochRangeModifier"),
        (SOUND.replace("end_epoch: 6.0", "end_epoch: 10.0").replace(QUANTIZATION, ""), 3, "no training follows"),
        (RUN + DECAY % 6.0 + PRUNING, 4, "has dropped to 0 of 3e-05 and does not rise again"),
        (RUN + DECAY % 6.0, None, "the learning rate is 0 from epoch 6 to 9.99"),
        (SOUND.replace("end_epoch: 6.0", "end_epoch: 7.5"), 9, "pruning ends at epoch 7.5"),
        (SOUND.replace(", disable_quantization_observer_epoch: 8.0", ""), 9, "is not set"),
        (SOUND.replace("observer_epoch: 8.0", "observer_epoch: -1"), 9, "is not set"),
        (SOUND.replace("observer_epoch: 8.0", "observer_epoch: 10.0"), 9, "not before the end of the run at 10"),
        (RUN + "  - !SetWeightDecayModifier {weight_decay: 0.0, start_epoch: 10.0}\n", 3, "no effect"),
        (
            RUN + PRUNING.replace("6.0", "12.0"),
            3,
            "but the run ends at epoch 10; sparsity reaches 79.4% instead of 80.0%",
        ),
        (RUN + PRUNING + "    update_frequency: 4.5\n", 3, "longer than the 4 epochs from start to end"),
        (RUN + PRUNING.replace("6.0", "2.0"), 3, "in one step"),
        (RUN + "  - !DistillationModifier {hardness: 0.0}\n", 3, "hardness is 0"),
        (
            RUN + "  - !PerLayerDistillationModifier {student_layer_names: [a], gain: 0}\n",
            3,
            "gain is 0: the loss of the layers has no effect",
        ),
        (RUN + "  - !DistillationModifier {}\n" * 2, 4, "two distillations overlap"),
        (RUN + "  - !DistillationModifier {}\n" * 2, 4, "the factor of the task loss is 0.25"),
        (RUN + PRUNING.replace("init_sparsity: 0.0", "init_sparsity: 0.9"), 3, "is below init_sparsity 0.9"),
        (RUN + PRUNING.replace("0.8", "1.0"), 3, "prunes all weights"),
        (RUN + PRUNING + "    mask_type: '2:4'\n", 3, "complete at 0.5"),
        (RUN + PRUNING + "    leave_enabled: false\n", 3, "weights regrow from epoch 6 on"),
        (RUN + "  - !LayerPruningModifier {layers: [a.1], end_epoch: 5.0}\n", 3, "are restored at epoch 5"),
        (
            RUN + PRUNING.replace(r"\.", "."),
            3,
            r"match any character; to match dots, write 're:.*(query|key)\.weight'",
        ),
        (RUN + PRUNING * 2, 9, "is also pruned by another modifier"),
        (
            RUN + PRUNING.replace(r"re:.*(query|key)\.weight", "__ALL_PRUNABLE__"),
            3,
            "includes word embeddings and the head",
        ),
    ],
)
def test_warning_names_its_line(modifiers, line, words, tmp_path):
    warnings = warnings_of(tmp_path, modifiers)
    told = [doubt for doubt in warnings if words in doubt]
    assert len(told) == 1, warnings
    assert told[0].startswith(str(tmp_path / "recipe.yaml") + (f", line {line}: " if line else ": "))
    assert "\n" not in told[0]


def test_pruning_before_a_rise_of_the_learning_rate_has_no_warning(tmp_path):
    twice = DECAY % 6.0 + (DECAY % 10.0).replace("start_epoch: 0.0", "start_epoch: 6.0")
    assert warnings_of(tmp_path, RUN + PRUNING + twice) == []


def test_zeros_that_another_modifier_keeps_have_no_warning(tmp_path):
    holds = r"  - !ConstantPruningModifier {params: ['re:.*(query|key)\.weight'], start_epoch: 6.0}" + "\n"
    assert warnings_of(tmp_path, RUN + PRUNING + "    leave_enabled: false\n" + holds) == []


def test_unused_variable_has_a_warning(tmp_path):
    head = "used: 10.0\nfirst: 1.0\nanchor: &a 2.0\nthrough: eval(first)\nidle: 3\ncopy: *a\n"
    modifiers = "  - !EpochRangeModifier {end_epoch: eval(used)}\n  - !SetWeightDecayModifier {weight_decay: *a}\n"
    warnings = warnings_of(tmp_path, modifiers, head)
    assert len(warnings) == 1
    assert "unused variables through, idle" in warnings[0]
    assert warnings_of(tmp_path, modifiers, head, recipe_args="anchor=0.1,idle=7") == warnings


def test_unused_variable_of_a_stage_has_a_warning(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("stage:\n  a: 1.0\n  b: 2.0\n  modifiers:\n    - !EpochRangeModifier {end_epoch: eval(a)}\n")
    assert [doubt.split(": ")[1] for doubt in check(str(path))[1]] == ["unused variable b"]


@pytest.mark.parametrize(
    ("modifiers", "words"),
    [
        (
            RUN
            + PRUNING.replace("['re:.*(query|key)\\.weight']", r"['re:.*query\.weight', 're:.*0\..*query\.weight']"),
            "both match bert.encoder.layer.0.attention.self.query.weight",
        ),
        (
            RUN + PRUNING.replace("(query|key)", "word.embeddings"),
            "it also matches bert.embeddings.word_embeddings.weight",
        ),
        (RUN + PRUNING.replace(r"\.", "."), "in this model they match only dots"),
        (
            RUN + PRUNING.replace(r"re:.*(query|key)\.weight", "__ALL_PRUNABLE__"),
            "prunes embeddings (bert.embeddings.word_embeddings.weight and 2 more) and the head (qa_outputs.weight)",
        ),
        (RUN + PRUNING.replace("(query|key)", "outputs"), "it also prunes the head (qa_outputs.weight)"),
        (RUN + PRUNING.replace(r"(query|key)\.weight", r"Norm\.weight"), "it prunes bert.embeddings.LayerNorm.weight"),
        (
            RUN
            + "  - !TrainableParamsModifier {params: __ALL__, trainable: false, end_epoch: 5.0}\n"
            + "  - !TrainableParamsModifier {params: [qa_outputs.bias], trainable: true}\n",
            "another modifier sets requires_grad of qa_outputs.bias",
        ),
    ],
)
def test_warning_that_needs_a_model_is_reported(modifiers, words, tmp_path, model_dir):
    warnings = warnings_of(tmp_path, modifiers, model_name=model_dir)
    assert any(words in doubt for doubt in warnings), warnings


# Exit codes


@pytest.mark.parametrize(
    ("modifiers", "options", "code"),
    [
        (SOUND, [], 0),
        (SOUND, ["--strict"], 0),
        (PRUNING, [], 0),
        (PRUNING, ["--strict"], 2),
        ("  - !EpochRangeModifer {}\n  - !GMPruningModifier {final: 1}\n", [], 1),
        (SOUND, ["--recipe_args", "nothing=1"], 1),
        (SOUND, ["--model", "no/such/model/here"], 1),
    ],
)
def test_exit_code_is_that_of_success_warnings_or_error(modifiers, options, code, tmp_path, capsys):
    assert main(["check", write(tmp_path, modifiers), *options]) == code
    out, err = capsys.readouterr()
    assert bool(err) == (code == 1)
    assert bool(out) == (code != 1)


def test_all_errors_are_reported_one_line_each(tmp_path, capsys):
    path = write(tmp_path, "  - !EpochRangeModifer {}\n  - !GMPruningModifier {final: 1}\n")
    assert main(["check", path]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith(f"{path}, line {number}: ") for number, line in zip((2, 3), lines, strict=True)] == [
        True
    ] * 2


def test_pattern_without_a_match_is_the_managers_error(tmp_path, capsys, model_dir):
    path = write(tmp_path, RUN + PRUNING.replace("query|key", "qeury"))
    assert main(["check", path, "--model", model_dir]) == 1
    assert r"no parameter matches 're:.*(qeury)\.weight'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("weights", "vocab_size", "reason"),
    [
        (True, 10**12, "config.json does not fit the weights: bert.embeddings.word_embeddings.weight must have shape"),
        (True, 10**5, "config.json does not fit the weights: bert.embeddings.word_embeddings.weight must have shape"),
        (False, 10**12, "the model is too large ("),
    ],
)
def test_configuration_that_does_not_fit_is_a_one_line_error(weights, vocab_size, reason, model_dir, tmp_path, capsys):
    for file in Path(model_dir).iterdir():
        if weights or file.suffix == ".json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"vocab_size": vocab_size}))
    assert main(["check", write(tmp_path, RUN), "--model", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--model {tmp_path}: {reason}")


@pytest.mark.parametrize("options", [["--batch_size", "4"], ["--batch_size", "0", "--num_examples", "8"]])
def test_invalid_command_line_exits_with_2(options, tmp_path):
    with pytest.raises(SystemExit) as caught:
        main(["check", write(tmp_path, SOUND), *options])
    assert caught.value.code == 2


def test_command_runs_in_a_process_of_its_own_and_imports_no_model(tmp_path):
    path = write(tmp_path, SOUND)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "sparsification", "check", path, "--strict"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stdout.startswith(path)
    assert "matplotlib.figure" not in done.stderr
    assert "sparsification.check.estimate" not in done.stderr
    assert "transformers" not in done.stderr


@dataclass(kw_only=True)
class LoudModifier(Modifier):
    """Warns of a length that it does not like."""

    params: list[str]

    @property
    def parameter_patterns(self) -> list[str]:
        return self.params

    def warnings(self, length: float | None) -> Iterator[str]:
        yield f"{length:g} epochs are many"


def test_a_modifier_of_the_users_own_is_checked_by_its_hooks(tmp_path, model_dir):
    loud = r"  - !LoudModifier {params: ['re:.*0.attention.self.query\.bias']}"
    path = write(tmp_path, RUN + loud)
    own = MODIFIERS | {"LoudModifier": LoudModifier}
    report, warnings = check(path, model_name=model_dir, modifiers=own)
    assert warnings[0] == f"{path}, line 3: LoudModifier: 10 epochs are many"
    assert "match any character" in warnings[1]
    assert len(warnings) == 2
    assert "1 parameters, 16 weights: bert.encoder.layer.0.attention.self.query.bias" in " ".join(report.split())


# Numbers


def cells(lines: list[str], label: str) -> list[str]:
    """The numbers of one row of the timeline."""
    line = next(line for line in lines if line.startswith(label))
    return line.removeprefix(label).split()


@pytest.mark.parametrize("curve", ["cubic", "linear", "inverse_cubic"])
def test_timeline_has_the_target_sparsity_of_the_schedule_at_every_tenth(curve):
    text = f"modifiers:\n{RUN}{PRUNING}    inter_func: {curve}\n".replace("init_sparsity: 0.0", "init_sparsity: 0.1")
    lines = text_lines(Timeline(RecipeSummary(load_recipe(text))))
    assert cells(lines, "epoch") == [str(epoch) for epoch in range(11)]

    def target(epoch: int) -> float:
        if epoch < 2:
            return 0.0
        x = min((epoch - 2) / 4, 1.0)
        way = {"cubic": 1 - (1 - x) ** 3, "linear": x, "inverse_cubic": 1 - (1 - x) ** (1 / 3)}[curve]
        return 10 + 70 * way

    numbers = [float(cell) for cell in cells(lines, "2 sparsity, %")]
    assert numbers == pytest.approx([target(epoch) for epoch in range(11)], abs=0.051)


def test_timeline_has_the_target_that_the_manager_prunes_to():
    text = f"modifiers:\n{RUN}{PRUNING}    update_frequency: 1.0\n"
    manager = ScheduledModifierManager(load_recipe(text))
    config = BertConfig(vocab_size=30, hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    model = BertForQuestionAnswering(config)
    manager.initialize(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    timeline = Timeline(manager)
    numbers = [float(cell) for cell in cells(text_lines(timeline), "2 sparsity, %")]
    weight = model.bert.encoder.layer[0].attention.self.key.weight
    for epoch, number in enumerate(numbers):
        manager.update(timeline.training_step(epoch), optimizer)
        assert 100 * float((weight == 0).float().mean()) == pytest.approx(number, abs=0.07)


def test_timeline_has_the_learning_rate_at_every_tenth():
    cosine = (DECAY % 10.0).replace("linear", "cosine").replace("start_epoch: 0.0", "start_epoch: 2.0")
    lines = text_lines(Timeline(RecipeSummary(load_recipe(f"modifiers:\n{RUN}{cosine}"))))
    numbers = cells(lines, "rate, 1e-5")
    assert numbers[:2] == ["-", "-"]  # the command line's
    expected = [3 * (1 + math.cos(math.pi * (epoch - 2) / 8)) / 2 for epoch in range(2, 11)]
    assert [float(number) for number in numbers[2:]] == pytest.approx(expected, abs=0.0051)


def test_sparsity_that_the_weights_bring_along_is_unknown_without_them():
    text = f"modifiers:\n{RUN}{PRUNING}".replace("init_sparsity: 0.0", "init_sparsity: __FROM_PARAM__")
    lines = text_lines(Timeline(RecipeSummary(load_recipe(text))))
    assert cells(lines, "2 sparsity, %") == ["?"] * 6 + ["80.0"] * 5


def test_groups_with_their_own_sparsity_and_learning_rate_have_rows_of_their_own():
    groups = PRUNING.replace(r"['re:.*(query|key)\.weight']", "[a, b]").replace("0.8", "[0.5, 0.9]")
    rates = "  - !SetLearningRateModifier {learning_rate: %s, start_epoch: 0.0, param_groups: [%d]}\n"
    text = f"modifiers:\n{RUN}{groups}{rates % ('4.0e-4', 0)}{rates % ('1.0e-6', 1)}"
    lines = text_lines(Timeline(RecipeSummary(load_recipe(text))))
    finals = [cells(lines, f"4 sparsity to {final}, %")[-1] for final in (0.5, 0.9)]
    assert finals == ["50.0", "90.0"]
    assert cells(lines, "rate, group 0, 1e-4") == ["4.00"] * 11
    assert cells(lines, "rate, group 1, 1e-6") == ["1.00"] * 11


def test_bars_cover_their_windows():
    lines = text_lines(Timeline(RecipeSummary(load_recipe(f"modifiers:\n{SOUND}"))))
    columns = lines[0].index("0")
    pruning = next(line for line in lines if line.startswith("3 GMPruning"))
    assert pruning[columns:] == " " * 10 + "=" * 20
    quantization = next(line for line in lines if line.startswith("4 Quantization"))
    assert quantization[columns:] == " " * 35 + "=" * 15


def test_steps_are_those_of_the_run(tmp_path):
    report, _ = check(write(tmp_path, RUN + PRUNING + "    update_frequency: 0.5\n"), num_examples=1001, batch_size=10)
    assert "10 epochs; 101 steps per epoch, 1,010 in total" in report
    assert "(steps 202 to 606, 9 masks)" in report  # 202, 253, ..., 559, and the last one at 606


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.7, 0.8, 0.9, 0.95])
@pytest.mark.parametrize(("bytes_each", "tolerance"), [(4, 0.05), (1, 0.1)])
def test_estimated_gzip_size_is_that_of_random_weights(sparsity, bytes_each, tolerance):
    generator = np.random.default_rng(0)
    weights = generator.normal(0, 0.04, 200_000).astype(np.float32)
    if bytes_each == 1:
        weights = np.round(weights / (np.abs(weights).max() / 127)).astype(np.int8)
    weights[generator.permutation(weights.size)[: int(weights.size * sparsity)]] = 0
    compressed = len(zlib.compress(weights.tobytes()))
    assert gzipped_bytes(weights.size, sparsity, bytes_each) == pytest.approx(compressed, rel=tolerance)


@pytest.mark.parametrize("mask_type", ["unstructured", "block4", [1, 4], [2, 2], "2:4"])
@pytest.mark.parametrize("sparsity", [0.0, 0.13, 0.5])
def test_zeros_are_counted_as_masks_make_them(mask_type, sparsity):
    scores = torch.rand(14, 12)
    zeros = int((~compute_mask(scores, sparsity, mask_type)).sum())
    assert num_pruned(scores.shape, sparsity, mask_type) == zeros


# A model


def entry(report: str, label: str) -> str:
    return re.search(rf"^{label} +(.*(?:\n {{16}}.*)*)", report, re.MULTILINE)[1]


def test_report_has_the_final_sizes_of_a_model(tmp_path, model_dir):
    drop = "  - !LayerPruningModifier {layers: [bert.encoder.layer.1, bert.encoder.layer.3]}\n"
    report, _ = check(write(tmp_path, SOUND + drop), model_name=model_dir)
    model = AutoModelForQuestionAnswering.from_pretrained(model_dir)
    before = model.num_parameters()
    manager = ScheduledModifierManager(load_recipe(f"modifiers:\n{SOUND}{drop}"))
    manager.initialize(model)
    manager.apply_one_shot()
    after = sum(parameter.numel() for parameter in model.parameters())
    pruned = [w for name, w in model.named_parameters() if re.search(r"(query|key)\.weight", name)]
    zeros = sum(int((weight == 0).sum()) for weight in pruned)
    assert entry(report, "Model") == f"{model_dir}, saved weights"
    assert entry(report, "Parameters") == f"{after:,} at the end, {before:,} at the start"
    assert entry(report, "Zeros").startswith(f"{zeros:,} at the end")
    assert entry(report, "Dropped") == "layers 1, 3 of bert.encoder.layer"
    assert entry(report, "Quantized") == "3 Embedding, 13 Linear, 2 attention"
    assert "4 parameters, 1,024 weights:" in report
    assert "bert.encoder.layer.0.attention.self.query.weight to" in report
    assert "bert.encoder.layer.2.attention.self.key.weight" in report
    matrices = sum(p.numel() for name, p in model.named_parameters() if p.dim() == 2)
    int8 = matrices + 4 * (after - matrices)
    assert entry(report, "ONNX, fp32").startswith(f"about {4 * after / 1e6:.3g} MB; gzipped about ")
    assert entry(report, "ONNX, int8").startswith(f"about {int8 / 1e6:.3g} MB; gzipped about ")


def test_report_has_the_final_sizes_of_a_thinned_model(model_dir):
    report, warnings = check(str(ROOT / "recipes" / "bert-base-12layers_ffn50.md"), model_name=model_dir)
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16)
    after = BertForQuestionAnswering(config).num_parameters()
    assert entry(report, "Parameters").startswith(f"{after:,} at the end")
    assert entry(report, "Zeros").startswith("0 at the end")
    assert warnings == []


def test_rows_and_columns_that_go_are_counted(tmp_path, model_dir):
    for mask_type, zeros in (("filter", 13 * 16), ("channel", 6 * 32)):
        recipe = RUN + PRUNING.replace("GMP", "StructuredP").replace("(query|key)", r"layer\.\d\.intermediate\.dense")
        recipe = recipe.replace("0.8", "0.4") + f"    mask_type: {mask_type}\n"
        report, _ = check(write(tmp_path, recipe), model_name=model_dir)
        assert entry(report, "Zeros").startswith(f"{4 * zeros:,} at the end")


def test_configuration_alone_will_do(tmp_path, model_dir):
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "config.json").write_text((Path(model_dir) / "config.json").read_text())
    report, _ = check(write(tmp_path, SOUND), model_name=str(folder))
    assert "configuration only" in " ".join(report.split())
    assert "8 parameters, 2,048 weights" in report


def test_zeros_that_are_there_and_held_count(tmp_path, model_dir):
    holds = r"  - !ConstantPruningModifier {params: ['re:.*query\.weight']}" + "\n"
    report, _ = check(write(tmp_path, RUN + holds), model_name=model_dir)
    assert entry(report, "Zeros").startswith("128 at the end")


def test_pruning_that_the_run_cuts_short_counts_as_far_as_it_comes(tmp_path, model_dir):
    report, _ = check(write(tmp_path, RUN + PRUNING.replace("6.0", "18.0")), model_name=model_dir)
    assert entry(report, "Zeros").startswith(f"{8 * round(256 * 0.8 * (1 - 0.5**3)):,} at the end")


# The picture


def test_plot_is_a_png(tmp_path):
    path = tmp_path / "recipe.png"
    assert main(["check", write(tmp_path, SOUND), "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_plot_without_matplotlib_says_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["check", write(tmp_path, SOUND), "--plot", str(tmp_path / "recipe.png")]) == 1
    assert capsys.readouterr().err == "--plot needs matplotlib: pip install matplotlib\n"


def test_plot_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(CheckError, match="--plot"):
        check(write(tmp_path, SOUND), plot=tmp_path / "nowhere" / "recipe.png")


CLASSIFIER = (
    RUN
    + """
  - !TrainableParamsModifier
    params: [classifier.weight]
    trainable: False
"""
)


@pytest.mark.parametrize("with_weights", [True, False], ids=["weights", "configuration"])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (BertForSequenceClassification, BertForSequenceClassification),
        (BertForTokenClassification, BertForTokenClassification),
        (BertForQuestionAnswering, BertForQuestionAnswering),
        (BertForMaskedLM, BertForQuestionAnswering),  # run_qa.py replaces the heads of pretraining
        (BertModel, BertForQuestionAnswering),
    ],
)
def test_model_has_the_head_that_its_configuration_names(kind, expected, with_weights, tmp_path, capsys):
    model = kind(BertConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2))
    model.save_pretrained(tmp_path / "model")
    if not with_weights:
        (tmp_path / "model" / "model.safetensors").unlink()
    built, has_weights = build_model(str(tmp_path / "model"))
    assert type(built) is expected and has_weights is with_weights
    status = main(["check", write(tmp_path, CLASSIFIER), "--model", str(tmp_path / "model")])
    has_classifier = expected is not BertForQuestionAnswering
    assert status == (0 if has_classifier else 1), capsys.readouterr().err


def test_model_without_a_question_answering_head_keeps_its_own(tmp_path):
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, image_size=32)
    ViTForImageClassification(config).save_pretrained(tmp_path)
    assert type(build_model(str(tmp_path))[0]) is ViTForImageClassification
