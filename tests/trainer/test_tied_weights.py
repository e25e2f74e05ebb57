"""A run of a model whose weights are tied is resumed: a checkpoint has each of them under one name."""

import json

import torch
from transformers import BertConfig, BertForMaskedLM

from helpers.trainers import SparseTrainer, arguments, assert_same_model
from sparsification.manager import ScheduledModifierManager

RECIPE = r"""
modifiers:
  - !EpochRangeModifier {end_epoch: 2.0}
  - !GMPruningModifier
    params: ['re:.*dense\.weight']
    init_sparsity: 0.1
    final_sparsity: 0.8
    start_epoch: 0.0
    end_epoch: 1.5
    update_frequency: 0.25
  - !QuantizationModifier {start_epoch: 0.5, disable_quantization_observer_epoch: 1.5}
"""


def make_trainer(folder) -> SparseTrainer:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = BertForMaskedLM(BertConfig(vocab_size=20, **sizes))
    generator = torch.Generator().manual_seed(1)
    rows = [torch.randint(5, 20, (8,), generator=generator) for _ in range(16)]
    data = [{"input_ids": ids, "attention_mask": torch.ones(8, dtype=torch.long), "labels": ids} for ids in rows]
    manager = ScheduledModifierManager.from_yaml(RECIPE)
    settings = arguments(folder, save_strategy="epoch")
    return SparseTrainer(model=model, args=settings, train_dataset=data, manager=manager)


def test_resumed_run_of_tied_weights_equals_the_uninterrupted_one(tmp_path, caplog):
    whole = make_trainer(tmp_path)
    whole.train()
    checkpoint = tmp_path / "checkpoint-4"
    assert json.loads((checkpoint / "trainer_state.json").read_text())["epoch"] == 1.0
    resumed = make_trainer(tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert_same_model(whole.model, resumed.model)
    decoder = resumed.model.cls.predictions.decoder
    assert decoder.weight is resumed.model.bert.embeddings.word_embeddings.weight
    assert not [record.message for record in caplog.records if "missing keys" in record.message]
