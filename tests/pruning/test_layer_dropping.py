"""Models that are no BERT lose their layers too, and are plain models afterwards."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    DistilBertConfig,
    ElectraConfig,
    RobertaConfig,
)

from sparsification.manager import ManagerError, ScheduledModifierManager

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
MODELS = {
    "distilbert": (
        DistilBertConfig(vocab_size=40, dim=16, n_layers=4, n_heads=2, hidden_dim=32),
        "distilbert.transformer.layer",
    ),
    "electra": (ElectraConfig(**SIZES, embedding_size=16), "electra.encoder.layer"),
    "roberta": (RobertaConfig(**SIZES, max_position_embeddings=40), "roberta.encoder.layer"),
}


def manager_for(layers: list[str]) -> ScheduledModifierManager:
    return ScheduledModifierManager.from_yaml(f"modifiers:\n  - !LayerPruningModifier\n    layers: {layers}\n")


@pytest.mark.parametrize("kind", MODELS)
def test_dropped_layers_are_gone_from_the_saved_model(kind, tmp_path):
    config, path = copy.deepcopy(MODELS[kind])
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(config).eval()
    kept = [model.get_submodule(f"{path}.{index}") for index in (1, 3)]
    manager_for([f"{path}.0", f"{path}.2"]).initialize(model)
    assert list(model.get_submodule(path)) == kept
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert loaded.config.num_hidden_layers == 2
    ids = torch.arange(3, 15).view(2, 6)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).start_logits, model(ids).start_logits)


def test_a_model_without_layers_is_refused():
    config, path = copy.deepcopy(MODELS["electra"])
    model = AutoModelForQuestionAnswering.from_config(config)
    with pytest.raises(ManagerError, match="at least one layer of electra.encoder.layer must remain, got all 4"):
        manager_for([f"{path}.{index}" for index in range(4)]).initialize(model)
