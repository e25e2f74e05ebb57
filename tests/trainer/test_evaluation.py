"""Do export and report work for a Trainer of any task, with a tokenizer or without?"""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from transformers import TrainingArguments

from helpers import plain_and_empty
from helpers.models import build_tiny_tokenizer
from helpers.plain_and_empty import SparseTrainer
from sparsification.manager import ScheduledModifierManager

RECIPE = """
modifiers:
  - !GMPruningModifier
    params: ['re:.*weight']
    init_sparsity: 0.0
    final_sparsity: 0.5
    start_epoch: 0.0
    end_epoch: 0.5
    update_frequency: 0.25
"""


@pytest.mark.parametrize(
    ("with_tokenizer", "several"), [(False, True), (True, False)], ids=["several data sets", "tokenizer"]
)
@pytest.mark.parametrize("task", ["question-answering", "sequence-classification", "token-classification"])
def test_any_trainer_exports_and_reports(task, with_tokenizer, several, tmp_path):
    data = plain_and_empty.make_data(task)
    tokenizer = build_tiny_tokenizer() if with_tokenizer else None
    trainer = SparseTrainer(
        model=plain_and_empty.make_model(task),
        args=TrainingArguments(
            str(tmp_path), num_train_epochs=1, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True
        ),
        train_dataset=data,
        eval_dataset={"first": data[:5], "second": data[5:]} if several else data[:5],
        processing_class=tokenizer,
        manager=ScheduledModifierManager.from_yaml(RECIPE),
    )
    trainer.train()
    trainer.export_onnx(tmp_path / "onnx", exporter="torchscript")  # the faster one
    trainer.write_report(["python", "train.py"], {}, {}, onnx_folder=tmp_path / "onnx")

    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.onnx"))
    names = [value.name for value in session.get_inputs()]
    assert names == ["input_ids", "attention_mask"]
    batch = {name: torch.stack([row[name] for row in data[:3]]) for name in names}
    with torch.no_grad():
        outputs = trainer.model.eval()(**batch)
    found = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
    for value, expected in zip(found, outputs.values(), strict=True):
        np.testing.assert_allclose(value, expected.numpy(), atol=1e-5)
    report = json.loads((tmp_path / "report.json").read_text())
    assert [model["name"] for model in report["models"]] == ["student", "ONNX"]
    assert report["tokens"] == plain_and_empty.LENGTH and all(model["latency"] > 0 for model in report["models"])
