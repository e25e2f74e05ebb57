"""``sparsification plan`` from its arguments to an exported model, on a tiny one."""

import re
import shutil

import pytest
from transformers import AutoModelForQuestionAnswering

from helpers.exports import needs_compiler
from helpers.models import save_tiny_bert
from sparsification.cli.main import main
from sparsification.plan import costs
from sparsification.tasks.embedding.modules import SentenceModules, load_modules


@pytest.fixture(scope="module")
def measured(tmp_path_factory, tiny_squad):
    """Arguments with a model whose costs and losses are measured by the first test that asks for them."""
    folder = tmp_path_factory.mktemp("plan")
    save_tiny_bert(folder / "model", hidden_size=64, positions=64)
    arguments = ["--model", folder / "model", "--data", tiny_squad / "train.json", "--cache_dir", folder / "cache"]
    return ["plan", *map(str, arguments), "--length", "32", "--num_samples", "8"]


@pytest.fixture(autouse=True)
def _few_turns(monkeypatch):
    monkeypatch.setattr(costs, "ROUNDS", 2)


@needs_compiler
@pytest.mark.usefixtures("fast_export")
def test_plan_is_a_recipe_that_is_applied_and_exported(measured, tmp_path, capsys):
    recipe, picture, out = tmp_path / "plan.yaml", tmp_path / "plan.png", tmp_path / "out"
    target = [*measured, "--size_mb", "0.24", "--precision", "fp32", "--keep_layers", "--output", str(recipe)]
    assert main([*target, "--plot", str(picture), "--apply", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "Predicted: " in printed and f"Recipe: {recipe}" in printed and picture.is_file()
    model = AutoModelForQuestionAnswering.from_pretrained(out)
    sparsities = re.findall(
        r"^# (bert\S+?)(?:, \S+)*  .* (?:fp32|int8) (?:dense|\S+ (\d+)%) ", recipe.read_text(), re.M
    )
    assert len(sparsities) == 8 and any(percent for _, percent in sparsities)
    for name, percent in sparsities:
        weight = model.get_submodule(name).weight
        assert float((weight == 0).float().mean()) == pytest.approx(float(percent or 0) / 100, abs=0.01)
    (path,) = (out / "onnx").glob("model.sparse.onnx")
    assert path.stat().st_size <= 0.24e6
    # Measured results are used again.
    assert main(target) == 0
    assert "Costs: from " in capsys.readouterr().err


@pytest.mark.usefixtures("fast_export")
def test_applied_plan_of_an_embedding_model_keeps_its_pooling(measured, tmp_path):
    source, out, modules = tmp_path / "model", tmp_path / "out", SentenceModules(pooling="cls", normalize=False)
    model = measured.index("--model") + 1
    shutil.copytree(measured[model], source)
    modules.save(source, 64)
    flags = ["--engine", "any", "--size_mb", "0.09", "--output", str(tmp_path / "plan.yaml"), "--apply", str(out)]
    assert main([*measured[:model], str(source), *measured[model + 1 :], *flags]) == 0
    assert load_modules(out) == load_modules(out / "onnx") == modules


@needs_compiler
def test_layers_are_dropped_where_no_sparsity_is_enough(measured, tmp_path, capsys):
    recipe, out = tmp_path / "plan.yaml", tmp_path / "out"
    flags = [*measured, "--precision", "fp32", "--output", str(recipe), "--apply", str(out), "--size_mb"]
    assert main([*flags, "0.001", "--keep_layers"]) == 1
    least = float(re.search(r"the least is (\S+) MB", capsys.readouterr().err)[1])
    assert main([*flags, str(0.98 * least)]) == 0
    assert "1 of 2 encoder layers are dropped. " in recipe.read_text()
    assert AutoModelForQuestionAnswering.from_pretrained(out).config.num_hidden_layers == 1
    assert (out / "onnx" / "model.sparse.onnx").stat().st_size <= 0.98e6 * least


@pytest.mark.usefixtures("fast_export")
def test_plan_for_any_engine_is_a_smaller_model(measured, tmp_path, capsys):
    recipe, out = tmp_path / "plan.yaml", tmp_path / "out"
    flags = ["--engine", "any", "--size_mb", "0.09", "--output", str(recipe), "--apply", str(out)]
    assert main([*measured, *flags]) == 0
    assert "onnx/model.onnx takes " in capsys.readouterr().out
    model = AutoModelForQuestionAnswering.from_pretrained(out)
    layers, width = re.search(r"^# (\d) of \d layers stay, and in each (\d+) of", recipe.read_text(), re.M).groups()
    assert (model.config.num_hidden_layers, model.config.intermediate_size) == (int(layers), int(width))
    assert (out / "onnx" / "model.onnx").stat().st_size <= 0.09e6


@needs_compiler
def test_impossible_target_is_told_with_the_best_that_is_possible(measured, tmp_path, capsys):
    flags = ["--speedup", "1000", "--output", str(tmp_path / "plan.yaml")]
    assert main([*measured, *flags]) == 1
    (*_, line) = capsys.readouterr().err.splitlines()
    assert re.search(r"^--speedup 1000 is .* ms, which no plan meets: the least is .* ms \(dense .* ms\)", line)
    assert not (tmp_path / "plan.yaml").exists()


@pytest.mark.parametrize("flags", [[], ["--speedup", "0"], ["--speedup", "2", "--size_mb", "3"]])
def test_target_is_one_positive_number(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["plan", "--model", "m", "--data", "d", *flags])
    assert ended.value.code == 2


def test_folder_without_a_model_is_a_one_line_error(tmp_path, capsys):
    assert main(["plan", "--model", str(tmp_path), "--data", "d", "--speedup", "2"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--model {tmp_path}: ")
