"""The maximum length of a model, compared with the lengths that it runs at."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForQuestionAnswering, BertConfig, BertForQuestionAnswering

from helpers.models import BART, SIZE
from sparsification.model_io import input_names, position_limit, position_limit_of

ENDS = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
# Family: its configuration, and the tokens of the longest input.
FAMILIES = {
    "bert": (SIZE | {"max_position_embeddings": 32}, 32),
    "electra": (SIZE | {"max_position_embeddings": 32}, 32),
    "distilbert": ({"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 32}, 32),
    "roformer": (SIZE | {"max_position_embeddings": 32}, 32),
    "gpt2": ({"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "vocab_size": 20}, 32),
    "bart": (BART | ENDS | {"decoder_start_token_id": 2}, 32),
    "roberta": (SIZE | ENDS | {"max_position_embeddings": 34}, 32),
    "xlm-roberta": (SIZE | ENDS | {"max_position_embeddings": 34}, 32),
    "camembert": (SIZE | ENDS | {"max_position_embeddings": 34}, 32),
    "mpnet": (SIZE | ENDS | {"max_position_embeddings": 34}, 32),
    "data2vec-text": (SIZE | ENDS | {"max_position_embeddings": 34}, 32),
    "ibert": (SIZE | ENDS | {"max_position_embeddings": 34}, 32),
    "deberta": (SIZE | {"relative_attention": True, "position_biased_input": False, "type_vocab_size": 0}, None),
    "deberta-v2": (SIZE | {"relative_attention": True, "position_biased_input": False, "type_vocab_size": 0}, None),
    "xlnet": ({"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "vocab_size": 20}, None),
    "t5": ({"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 20}, None),
}


def make(family: str) -> torch.nn.Module:
    settings = FAMILIES[family][0]
    if family == "t5":
        settings = settings | {"decoder_start_token_id": 0}
    return AutoModelForQuestionAnswering.from_config(AutoConfig.for_model(family, **settings)).eval()


def run(model: torch.nn.Module, length: int) -> tuple[int, ...]:
    ids = torch.full((1, length), 7)
    with torch.no_grad():
        return tuple(model(input_ids=ids, attention_mask=torch.ones_like(ids)).start_logits.shape)


@pytest.mark.parametrize("family", FAMILIES)
def test_limit_is_the_longest_input_that_the_model_runs_on(family):
    model, limit = make(family), FAMILIES[family][1]
    assert position_limit(model) == position_limit_of(model.config) == limit
    assert run(model, limit or 700) == (1, limit or 700)
    if limit is not None:
        with pytest.raises((IndexError, RuntimeError)):
            run(model, limit + 1)


def test_limit_of_longformer_leaves_out_its_padding():
    settings = SIZE | ENDS | {"max_position_embeddings": 34, "attention_window": 8, "sep_token_id": 2}
    assert position_limit_of(AutoConfig.for_model("longformer", **settings)) == 32


def test_limit_does_not_depend_on_the_number_of_labels():
    assert position_limit_of(AutoConfig.for_model("distilbert", num_labels=4, max_position_embeddings=40)) == 40


def test_rotary_model_has_the_length_of_its_configuration():
    settings = SIZE | {"max_position_embeddings": 48, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    settings |= {"cls_token_id": 1, "sep_token_id": 2}
    assert position_limit_of(AutoConfig.for_model("modernbert", **settings)) == 48


def test_deberta_with_absolute_positions_beside_has_their_number():
    settings = SIZE | {"relative_attention": True, "position_biased_input": True, "max_position_embeddings": 32}
    assert position_limit_of(AutoConfig.for_model("deberta-v2", **settings)) == 32


def test_inputs_are_what_tokenizer_and_model_have_in_common(tiny_tokenizer):
    bert = BertForQuestionAnswering(BertConfig(**SIZE))
    assert input_names(bert, tiny_tokenizer) == ["input_ids", "token_type_ids", "attention_mask"]
    assert input_names(make("distilbert"), tiny_tokenizer) == ["input_ids", "attention_mask"]
