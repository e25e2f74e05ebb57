"""Names, patterns and tokens of a recipe find the parameters, modules and layers of a model."""

import re
import time

import pytest
import torch.nn as nn
from transformers import (
    AlbertConfig,
    AutoModelForQuestionAnswering,
    BartConfig,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    ModernBertConfig,
    MPNetConfig,
    RobertaConfig,
)

from sparsification.targets import TargetError, Targets


@pytest.fixture
def model():
    layer = lambda: nn.ModuleDict({"query": nn.Linear(4, 4), "dense": nn.Linear(4, 4), "norm": nn.LayerNorm(4)})  # noqa: E731
    return nn.ModuleDict(
        {"embed": nn.Embedding(5, 4), "encoder": nn.ModuleDict({"layer": nn.ModuleList(layer() for _ in range(12))})}
    )


def names(model, patterns, **settings):
    return list(Targets(model).parameters(patterns, **settings))


def test_expressions_are_matched_from_the_start_of_a_name(model):
    assert names(model, "re:encoder.layer.1.query.weight") == ["encoder.layer.1.query.weight"]
    assert names(model, "re:encoder.layer.1.*query.weight") == [
        f"encoder.layer.{index}.query.weight" for index in (1, 10, 11)
    ]
    assert names(model, "re:encoder.layer.0.dense") == ["encoder.layer.0.dense.weight", "encoder.layer.0.dense.bias"]


def test_order_is_the_models_and_nothing_is_named_twice(model):
    patterns = ["encoder.layer.2.query.weight", "re:.*layer.(0|2).query.weight"]
    assert names(model, patterns) == ["encoder.layer.0.query.weight", "encoder.layer.2.query.weight"]


def test_tokens(model):
    assert len(names(model, "__ALL__")) == 1 + 12 * 6
    assert names(model, ["__ALL_PRUNABLE__"])[0] == "embed.weight"
    assert len(names(model, "__ALL_PRUNABLE__")) == 1 + 12 * 2
    assert names(model, "__ENCODER__") == [
        f"encoder.layer.{index}.{name}.weight" for index in range(12) for name in ("query", "dense")
    ]
    assert names(model, "__ENCODER__.10") == ["encoder.layer.10.query.weight", "encoder.layer.10.dense.weight"]


def test_names_are_the_same_inside_a_wrapper(model):
    wrapper = nn.Module()
    wrapper.module = model
    assert names(wrapper, "re:encoder.layer.3.*weight") == names(model, "re:encoder.layer.3.*weight")


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("re:query.weight", "did you mean 're:.*query.weight'?"),
        ("encoder.layer.1.querry.weight", "did you mean 'encoder.layer.1.query.weight'"),
        ("re:encoder.layer.12.dense.weight", "or 'encoder.layer.1.dense.weight'"),
        ("re:(", "'re:(' is no regular expression"),
    ],
)
def test_what_matches_nothing_says_what_it_may_have_meant(model, pattern, meant):
    with pytest.raises(TargetError) as caught:
        names(model, pattern)
    assert meant in str(caught.value)


def test_lenient_patterns_may_match_nothing(model):
    assert names(model, ["re:nothing.*", "__ENCODER__.12"], strict=False) == []
    assert names(nn.Linear(2, 2), ["__ENCODER__"], strict=False) == []


def test_layers_by_name_and_by_pattern(model):
    assert Targets(model).layers(["encoder.layer.10", "re:encoder.layer.[13]"]) == {"encoder.layer": [1, 3, 10]}
    assert Targets(model).layers(["__ENCODER__.10", "__ENCODER__.1"]) == {"encoder.layer": [1, 10]}
    for name in ("encoder.layer.12", "__ENCODER__.12"):
        with pytest.raises(TargetError, match="no layer matches 'encoder.layer.12'.*encoder.layer has layers 0 to 11"):
            Targets(model).layers(name)


ONE_WAY_OR_MANY = r"re:(?:.(?:.(?:.|..)*|..)*|..)*[!?]"  # says in many ways that there is a sign that no name has


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (ONE_WAY_OR_MANY, "takes too long to match"),
        ("re:" + ".*?" * 12 + "[!?]", "takes too long to match"),
        ("re:" + "(" * 100 + "." + ")*" * 100 + "[!?]", "takes too long to match"),
        ("re:(?:(?:a{60}){60}){60}", "repeats too often"),
        ("re:a{" + "9" * 30 + "}", "repeats too often"),
        ("re:" + "a" * 1001, "longer than 1000 characters"),
        ("re:" + "(" * 450 + ")" * 450, "no parameter matches|nested too deeply"),
        ("re:(?R)", "no regular expression"),
        ("re:[", "no regular expression"),
    ],
)
def test_expression_that_would_search_for_years_is_refused_soon(model, pattern, message):
    started = time.process_time()
    with pytest.raises(TargetError, match=message) as caught:
        names(model, pattern)
    assert time.process_time() - started < 5
    assert len(str(caught.value)) < 500


SIZES = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
ENCODERS = {
    "bert": BertConfig(**SIZES),
    "roberta": RobertaConfig(**SIZES),
    "electra": ElectraConfig(**SIZES, embedding_size=16),
    "deberta": DebertaV2Config(**SIZES),
    "distilbert": DistilBertConfig(vocab_size=20, dim=16, n_layers=2, n_heads=2, hidden_dim=16),
    "albert": AlbertConfig(**SIZES, embedding_size=16),
    "modernbert": ModernBertConfig(**SIZES, pad_token_id=0),
    "mpnet": MPNetConfig(**SIZES),
    "bart": BartConfig(
        vocab_size=20,
        d_model=16,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
    ),
}


def encoder_of(family: str):
    return AutoModelForQuestionAnswering.from_config(ENCODERS[family])


# The Linear modules of one layer, by family, as the model classes of Transformers name them.
_ATTENTION = ["attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense"]
_BERT_LAYER = [*_ATTENTION, "intermediate.dense", "output.dense"]
LINEAR = {
    "bert": ("bert.encoder.layer.{}", _BERT_LAYER),
    "roberta": ("roberta.encoder.layer.{}", _BERT_LAYER),
    "electra": ("electra.encoder.layer.{}", _BERT_LAYER),
    "deberta": (
        "deberta.encoder.layer.{}",
        [
            *(f"attention.self.{name}_proj" for name in ("query", "key", "value")),
            *("attention.output.dense", "intermediate.dense", "output.dense"),
        ],
    ),
    "distilbert": (
        "distilbert.transformer.layer.{}",
        [*(f"attention.{name}_lin" for name in "qkv"), "attention.out_lin", "ffn.lin1", "ffn.lin2"],
    ),
    "albert": (
        "albert.encoder.albert_layer_groups.0.albert_layers.0",
        [*(f"attention.{name}" for name in ("query", "key", "value", "dense")), "ffn", "ffn_output"],
    ),
    "modernbert": ("model.layers.{}", ["attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"]),
    "mpnet": (
        "mpnet.encoder.layer.{}",
        [*(f"attention.attn.{name}" for name in "qkvo"), "intermediate.dense", "output.dense"],
    ),
    "bart": (
        "model.encoder.layers.{}",
        [*(f"self_attn.{name}_proj" for name in ("k", "v", "q", "out")), "fc1", "fc2"],
    ),
}


def linear_weights(family: str, layers: tuple[int, ...] = (0, 1)) -> set[str]:
    path, linear = LINEAR[family]
    return {f"{path.format(index)}.{name}.weight" for index in layers for name in linear}


@pytest.mark.parametrize("family", ENCODERS)
def test_encoder_token_is_the_linear_weights_of_the_layers_in_each_family(family):
    targets = Targets(encoder_of(family))
    assert set(targets.parameters("__ENCODER__")) == linear_weights(family)
    assert set(targets.parameters("__ENCODER__.0")) == linear_weights(family, (0,))


def test_encoder_token_leaves_out_pooler_and_head():
    config = BertConfig(**SIZES)
    for model, prefix in ((BertForSequenceClassification(config), "bert."), (BertModel(config), "")):
        expected = {f"{prefix}{name.removeprefix('bert.')}" for name in linear_weights("bert")}
        assert set(names(model, "__ENCODER__")) == expected


def test_encoder_token_is_no_list_of_heads_and_no_model_without_layers():
    heads = nn.ModuleDict({"heads": nn.ModuleList(nn.Linear(2, 2) for _ in range(3))})
    for find in (Targets(heads).parameters, Targets(heads).modules, Targets(heads).layers):
        with pytest.raises(TargetError, match="__ENCODER__ matches nothing: the model has no nn.ModuleList of layers"):
            find("__ENCODER__")


@pytest.mark.parametrize("family", [family for family in ENCODERS if family != "albert"])  # it has one layer
def test_encoder_token_names_layers_and_modules_in_each_family(family):
    targets = Targets(encoder_of(family))
    path = LINEAR[family][0].format(1)
    assert list(targets.modules("__ENCODER__.1")) == [path]
    assert targets.layers("__ENCODER__.1") == {path.removesuffix(".1"): [1]}


@pytest.mark.parametrize("family", [family for family in ENCODERS if family != "bert"])
@pytest.mark.parametrize(
    "pattern", [r"re:bert\.encoder\.layer\.\d+\.attention\.self\.query\.weight", "re:bert.encoder.*tense"]
)
def test_a_pattern_for_bert_says_what_would_match_in_another_encoder(family, pattern):
    targets = Targets(encoder_of(family))
    with pytest.raises(TargetError) as caught:
        targets.parameters(pattern)
    own = re.search(r"did you mean '(re:[^']*)'", str(caught.value))  # the same pattern with the model's own prefix
    path = LINEAR[family][0].partition(".{}")[0].partition(".0.")[0]
    meant = f"__ENCODER__ means the weights of all Linear modules in this model's layers ({path})"
    assert targets.parameters(own[1]) if own else meant in str(caught.value)


@pytest.mark.parametrize("family", ["roberta", "electra", "deberta"])
def test_names_of_layers_and_modules_are_given_the_models_own_prefix(family):
    targets = Targets(encoder_of(family))
    for find in (targets.layers, targets.modules):
        with pytest.raises(TargetError, match=f"did you mean '{family}.encoder.layer.1'"):
            find("bert.encoder.layer.1")
    with pytest.raises(TargetError, match=rf"did you mean 're:\^{family}.encoder.layer.\[01\]\$'"):
        targets.modules("re:^bert.encoder.layer.[01]$")


def test_what_is_like_nothing_says_what_there_is(model):
    with pytest.raises(TargetError, match="no module matches 'xyz'; there are embed, encoder, encoder.layer, ..."):
        Targets(model).modules("xyz")


def test_model_of_transformers_is_found_inside_wrappers(model):
    bert = BertForQuestionAnswering(BertConfig(vocab_size=9, hidden_size=4, num_attention_heads=1, num_hidden_layers=1))
    assert Targets(bert).pretrained() is Targets(nn.Sequential(nn.Sequential(bert))).pretrained() is bert
    for other in (model, nn.Sequential(bert, nn.Linear(2, 2)), nn.Linear(2, 2)):
        with pytest.raises(TargetError, match=f"must be a PreTrainedModel, got {type(other).__name__}"):
            Targets(other).pretrained()
