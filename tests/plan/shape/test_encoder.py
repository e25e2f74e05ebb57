"""Layers and feed-forward blocks are found in any family of encoders that has plain ones."""

import pytest
from transformers import (
    AlbertConfig,
    AlbertModel,
    BertConfig,
    BertForQuestionAnswering,
    DistilBertConfig,
    DistilBertModel,
    ModernBertConfig,
    ModernBertModel,
    RobertaConfig,
    RobertaModel,
)

from sparsification.plan.shape.encoder import Shape, find_encoder
from sparsification.plan.units import PlanError

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}


def test_block_of_each_layer_is_found():
    encoder = find_encoder(BertForQuestionAnswering(BertConfig(**SIZES)))
    assert encoder.width == 32 and len(encoder.layers) == 3
    layer = encoder.layers[1]
    assert layer.name == "bert.encoder.layer.1"
    assert (layer.first, layer.second) == (f"{layer.name}.intermediate.dense", f"{layer.name}.output.dense")
    assert [one.name[-1] for one in encoder.kept(Shape((1,), 32))] == ["0", "2"]


@pytest.mark.parametrize(
    ("model", "first"),
    [
        (RobertaModel(RobertaConfig(**SIZES)), "encoder.layer.0.intermediate.dense"),
        (
            DistilBertModel(DistilBertConfig(vocab_size=40, dim=16, hidden_dim=32, n_layers=3, n_heads=2)),
            "transformer.layer.0.ffn.lin1",
        ),
    ],
    ids=["roberta", "distilbert"],
)
def test_families_have_their_own_names(model, first):
    assert find_encoder(model).layers[0].first == first


def test_widths_are_eighths_of_the_dense_one():
    encoder = find_encoder(BertForQuestionAnswering(BertConfig(**SIZES)))
    assert encoder.widths() == [4, 8, 12, 16, 20, 24, 28, 32]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ModernBertModel(ModernBertConfig(**SIZES, pad_token_id=0)), r"layers\.0 has no plain feed-forward block"),
        (
            AlbertModel(AlbertConfig(**SIZES, embedding_size=8)),
            "--engine any needs two layers or more, got 1 in encoder",
        ),
        (
            BertForQuestionAnswering(BertConfig(**SIZES | {"intermediate_size": 16})),
            r"bert\.encoder\.layer\.0 has no plain feed-forward block of two Linear layers",
        ),
    ],
    ids=["gated", "shared", "as wide as the hidden size"],
)
def test_model_without_plain_blocks_is_refused(model, message):
    with pytest.raises(PlanError, match=message):
        find_encoder(model)
