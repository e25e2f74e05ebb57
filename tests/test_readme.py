"""README.md and the project's pages: short, true to the figures they cite, and their code runs."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import sparsification
from helpers import ROOT
from helpers.models import build_tiny_tokenizer
from sparsification.check.report import check

README = (ROOT / "README.md").read_text()
HEADLINE = README.split("\n## ")[0]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *(ROOT / "docs").glob("*.md"),
]


def block(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", README, re.S).group(1)


def tree() -> list[str]:
    """The paths in README's file list; two blanks of indentation are one folder."""
    lines = README.split("\n## Files\n")[1].split("```")[1].strip("\n").splitlines()
    paths, folder = [], ""
    for line in lines:
        name = line.split()[0]
        if line.startswith("  "):
            paths.append(folder + name)
        else:
            folder = name
            paths.append(name)
    return paths


def test_readme_has_at_most_1200_words():
    assert len(README.split()) <= 1200


def test_the_file_list_is_that_of_the_checkout():
    paths = tree()
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing
    scripts = {path.name for path in ROOT.glob("*.py")}
    packages = {f"sparsification/{path.parent.name}/" for path in (ROOT / "sparsification").glob("*/__init__.py")}
    assert scripts | packages <= set(paths)
    examples = re.findall(r"(\w+\.py)", next(line for line in README.splitlines() if line.startswith("examples/ ")))
    assert set(examples) == {path.name for path in (ROOT / "examples").glob("*.py")}


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_a_link_leads_to_a_file_and_a_heading_that_are_there(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if anchor:
            headings = [line.lstrip("#").strip().lower().replace(" ", "-") for line in path.read_text().splitlines()]
            assert anchor in headings, target


SPEED = "benchmarks/sparse_runtime.md"


def table(page: str, *words: str) -> str:
    """The one line of a page that has all of the words, each between bars or blanks."""
    lines = [line for line in (ROOT / page).read_text().splitlines() if all(word in line for word in words)]
    assert len(lines) == 1, (page, words)
    return lines[0]


@pytest.mark.parametrize(
    ("row", "cells", "page", "words"),
    [
        ("dense", ["52.4 / 69.8"], "benchmarks/accuracy.md", ["The teacher: 3 epochs"]),
        ("dense", ["15.4"], SPEED, ["| minilm", "| 1 x 128 | 1 | int8 80 % 1x4 |"]),
        ("dense", ["90.3 MB"], SPEED, ["| minilm | fp32 dense |"]),
        ("pruned 80 %, sparse fp32", ["52.3 / 68.5"], "benchmarks/accuracy.md", ["| prune80 |"]),
        ("pruned 80 %, sparse fp32", ["58.5 MB"], SPEED, ["| minilm | fp32 80 % unstructured |"]),
        ("pruned 80 %, sparse fp32", ["4.9"], SPEED, ["| minilm", "| 1 x 128 | 1 | fp32 80 % unstructured |"]),
        (
            "pruned 80 %, sparse int8",
            ["52.1 / 68.3", "16.6 MB"],
            "benchmarks/accuracy.md",
            ["| quantize80_one_shot |"],
        ),
        ("pruned 80 %, sparse int8", ["2.7"], SPEED, ["| minilm", "| 1 x 128 | 1 | int8 80 % unstructured |"]),
        ("pruned 90 %, sparse fp32", ["48.6 / 65.7"], "benchmarks/accuracy.md", ["| prune90_10epochs |"]),
        ("pruned 90 %, sparse fp32", ["53.2 MB"], SPEED, ["| minilm | fp32 90 % unstructured |"]),
        ("pruned 90 %, sparse fp32", ["3.4"], SPEED, ["| minilm", "| 1 x 128 | 1 | fp32 90 % unstructured |"]),
        (
            "pruned 50 % without training, int8",
            ["48.4 / 64.9", "22.8 MB"],
            "benchmarks/accuracy.md",
            ["| reconstruct50_int8 |"],
        ),
        ("pruned 50 % without training, int8", ["5.8"], SPEED, ["| minilm", "| 1 x 128 | 1 | int8 80 % 1x4 |"]),
        (
            "pruned 80 % in 1x4 blocks, sparse int8",
            ["48.9 / 66.2", "15.0 MB"],
            "benchmarks/accuracy.md",
            ["| quantize80_block4_10epochs |"],
        ),
        ("pruned 80 % in 1x4 blocks, sparse int8", ["2.2"], SPEED, ["| minilm", "| 1 x 128 | 1 | int8 80 % 1x4 |"]),
    ],
)
def test_a_figure_of_the_first_table_stands_in_the_page_of_its_measurement(row, cells, page, words):
    line = next(line for line in HEADLINE.splitlines() if line.startswith(f"| {row} |"))
    measured = table(page, *words)
    for cell in cells:
        assert cell in line
        assert cell in measured


def test_the_ten_lines_prune_and_export_with_a_recipe_that_check_does_not_warn_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = block("python")
    assert len([line for line in code.splitlines() if line.strip()]) == 10
    Path("recipe.yaml").write_text(block("yaml"))
    tokenizer = build_tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained("bert")
    tokenizer.save_pretrained("bert")
    assert check("recipe.yaml", None, model_name="bert")[1] == []
    data = [{**tokenizer(text), "labels": number % 2} for number, text in enumerate(["Oslo", "Lima"] * 8)]
    exec(code.replace("bert-base-uncased", "bert"), {"data": data})
    weight = AutoModelForSequenceClassification.from_pretrained("out").bert.encoder.layer[0].output.dense.weight
    assert float((weight == 0).float().mean()) == 0.5
    assert Path("out/onnx/model.onnx").is_file()


def test_citation_and_changes_have_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert str(citation["version"]) == sparsification.__version__
    assert citation["license"] == project["license"]
    assert f"\n## {sparsification.__version__} (" in (ROOT / "CHANGELOG.md").read_text()


def test_the_workflow_calls_make_with_targets_that_there_are():
    job = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]["test"]
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["make lint test PYTHON=python"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in ("lint", "test"))
