"""Sizes and numbers of zeros that the check estimates."""

import re
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForQuestionAnswering,
)

from helpers import ROOT
from helpers.checking import PRUNING, RUN, SOUND, write
from sparsification.check.estimate import gzipped_bytes
from sparsification.check.report import check
from sparsification.manager import ScheduledModifierManager
from sparsification.pruning.masks import compute_mask, num_pruned
from sparsification.recipe.loader import load_recipe


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


def test_neurons_that_reconstruction_prunes_are_thinned(tmp_path, model_dir):
    report, _ = check(str(ROOT / "recipes" / "one-shot_neurons50.md"), model_name=model_dir)
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16)
    assert entry(report, "Parameters").startswith(f"{BertForQuestionAnswering(config).num_parameters():,} at the end")


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
