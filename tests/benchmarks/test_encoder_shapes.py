"""The benchmark of families of encoders: its files, counts and table, with a small model."""

import sys

import pytest

from benchmarks import encoder_shapes
from helpers.exports import needs_compiler

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}


@needs_compiler
def test_small_bert_is_counted_and_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(encoder_shapes, "FAMILIES", {"BERT": ("bert", SMALL)})
    out = tmp_path / "page.md"
    flags = ["--work_dir", tmp_path / "work", "--output", out, "--rounds", "1", "--seconds", "0"]
    monkeypatch.setattr(sys, "argv", ["encoder_shapes", *map(str, flags)])
    encoder_shapes.main()
    (row,) = [line for line in out.read_text().splitlines() if line.startswith("| BERT")]
    _, *counts, dense, sparse, ratio = [cell.strip() for cell in row.strip("|").split("|")]
    # Attention; two norms and that of the embeddings; query, key and value as one, and the first layer of the
    # feed-forward block, in integers; the two other layers, and the head.
    assert counts == ["1", "3", "0", "2", "3"]
    assert float(ratio.removesuffix("x")) == pytest.approx(float(dense) / float(sparse), rel=0.5)

    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.onnx")}
    encoder_shapes.main()
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "work").rglob("*.onnx")} == made
