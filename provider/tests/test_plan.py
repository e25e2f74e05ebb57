"""``sparsification plan --engine provider``: costs are those of this provider, and the model is a standard file."""

import onnx
import pytest

from helpers.models import save_tiny_bert
from sparsification.cli.main import main
from sparsification.plan import costs


@pytest.mark.usefixtures("library")
def test_plan_for_the_provider_is_applied_to_a_standard_file(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(costs, "LAYER_SECONDS", 0.002)
    monkeypatch.setattr(costs, "MODEL_SECONDS", 0.02)
    save_tiny_bert(tmp_path / "model", hidden_size=64, positions=64)
    (tmp_path / "texts.txt").write_text(
        "A river runs through the town.\n" * 2 + "The town has a river and a wall.\n" * 6
    )
    where = ["--model", tmp_path / "model", "--data", tmp_path / "texts.txt", "--cache_dir", tmp_path / "cache"]
    what = ["--engine", "provider", "--size_mb", "0.4", "--precision", "int8", "--length", "32"]
    output = ["--output", tmp_path / "plan.yaml", "--apply", tmp_path / "out"]
    assert main(["plan", *map(str, [*where, *what, *output])]) == 0
    assert "onnx/model.onnx takes " in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out" / "onnx").glob("*.onnx")] == ["model.onnx"]
    domains = {opset.domain for opset in onnx.load(tmp_path / "out" / "onnx" / "model.onnx").opset_import}
    assert domains <= {"", "ai.onnx", "ai.onnx.ml"}
