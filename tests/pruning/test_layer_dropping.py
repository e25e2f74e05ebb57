"""Layer dropping in models of other families than BERT: the saved models are plain models with fewer layers."""

import copy

import pytest
import torch
from transformers import (
    AlbertConfig,
    AutoModelForQuestionAnswering,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    LongformerConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
)

from sparsification.base import TrainingStep
from sparsification.manager import ManagerError, ScheduledModifierManager

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
MODELS = {
    "distilbert": (
        DistilBertConfig(vocab_size=40, dim=16, n_layers=4, n_heads=2, hidden_dim=32),
        "distilbert.transformer.layer",
    ),
    "electra": (ElectraConfig(**SIZES, embedding_size=16), "electra.encoder.layer"),
    "roberta": (RobertaConfig(**SIZES, max_position_embeddings=40), "roberta.encoder.layer"),
    "mpnet": (MPNetConfig(**SIZES, max_position_embeddings=40), "mpnet.encoder.layer"),
    "deberta": (DebertaV2Config(**SIZES, relative_attention=True, position_buckets=8), "deberta.encoder.layer"),
    "modernbert": (
        ModernBertConfig(**SIZES, max_position_embeddings=40, local_attention=2, pad_token_id=0),
        "model.layers",
    ),
    "longformer": (
        LongformerConfig(**SIZES, max_position_embeddings=40, attention_window=[4, 8, 4, 8]),
        "longformer.encoder.layer",
    ),
}


def manager_for(layers: list[str]) -> ScheduledModifierManager:
    return ScheduledModifierManager.from_yaml(f"modifiers:\n  - !LayerPruningModifier\n    layers: {layers}\n")


@pytest.mark.parametrize("named_by", ["path", "token"])
@pytest.mark.parametrize("kind", MODELS)
def test_dropped_layers_are_gone_from_the_saved_model(kind, named_by, tmp_path):
    config, path = copy.deepcopy(MODELS[kind])
    layers = [f"{path if named_by == 'path' else '__ENCODER__'}.{index}" for index in (1, 3)]
    torch.manual_seed(0)
    model = AutoModelForQuestionAnswering.from_config(config).eval()
    kept = [model.get_submodule(f"{path}.{index}") for index in (0, 2)]
    state = torch.get_rng_state()
    manager_for(layers).initialize(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert list(model.get_submodule(path)) == kept
    model.save_pretrained(tmp_path)
    loaded, info = AutoModelForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert loaded.config.num_hidden_layers == 2
    ids = torch.arange(3, 35).view(2, 16)
    inputs = {"input_ids": ids} | ({"global_attention_mask": (ids == 3).long()} if kind == "longformer" else {})
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**inputs).start_logits, model(**inputs).start_logits)


def test_a_model_without_layers_is_refused():
    config, path = copy.deepcopy(MODELS["electra"])
    model = AutoModelForQuestionAnswering.from_config(config)
    with pytest.raises(ManagerError, match="at least one layer of electra.encoder.layer must remain, got all 4"):
        manager_for([f"{path}.{index}" for index in range(4)]).initialize(model)


def test_entries_of_each_layer_go_with_it_and_come_back():
    config, _ = copy.deepcopy(MODELS["modernbert"])
    types = config.layer_types = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]
    model = AutoModelForQuestionAnswering.from_config(config)
    text = "modifiers:\n  - !LayerPruningModifier {layers: [__ENCODER__.1, __ENCODER__.2], end_epoch: 1.0}\n"
    manager = ScheduledModifierManager.from_yaml(text)
    manager.initialize(model)
    manager.on_train_begin(TrainingStep(0, 4))
    assert model.config.layer_types == ["full_attention", "full_attention"]
    manager.on_train_begin(TrainingStep(5, 4))
    assert model.config.layer_types == types
    assert model.config.num_hidden_layers == 4


def test_layer_without_which_the_rest_could_not_be_loaded_is_refused():
    config, path = copy.deepcopy(MODELS["modernbert"])
    model = AutoModelForQuestionAnswering.from_config(config)
    layers = list(model.get_submodule(path))
    with pytest.raises(ManagerError, match="ModernBertForQuestionAnswering could not be loaded without model.layers.0"):
        manager_for(["__ENCODER__.0"]).initialize(model)  # the only layer without a norm before its attention
    assert list(model.get_submodule(path)) == layers
    assert model.config.num_hidden_layers == len(model.config.layer_types) == 4


def test_layer_that_all_layers_share_is_refused():
    model = AutoModelForQuestionAnswering.from_config(AlbertConfig(**SIZES, embedding_size=16))
    with pytest.raises(
        ManagerError, match="at least one layer of albert.encoder.albert_layer_groups must remain, got all 1"
    ):
        manager_for(["__ENCODER__.0"]).initialize(model)
