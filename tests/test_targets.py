"""Names, patterns and tokens: which parameters do they mean?"""

import re
import time

import pytest
import torch.nn as nn
from transformers import (
    AlbertConfig,
    AutoModelForQuestionAnswering,
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
    assert names(model, ["re:nothing.*"], strict=False) == []


def test_layers_by_name_and_by_pattern(model):
    assert Targets(model).layers(["encoder.layer.10", "re:encoder.layer.[13]"]) == {"encoder.layer": [1, 3, 10]}
    with pytest.raises(TargetError, match="encoder.layer has layers 0 to 11"):
        Targets(model).layers("encoder.layer.12")


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
    "roberta": RobertaConfig(**SIZES),
    "electra": ElectraConfig(**SIZES, embedding_size=16),
    "deberta": DebertaV2Config(**SIZES),
    "distilbert": DistilBertConfig(vocab_size=20, dim=16, n_layers=2, n_heads=2, hidden_dim=16),
    "albert": AlbertConfig(**SIZES, embedding_size=16),
    "modernbert": ModernBertConfig(**SIZES, pad_token_id=0),
    "mpnet": MPNetConfig(**SIZES),
}


def encoder_of(family: str):
    return AutoModelForQuestionAnswering.from_config(ENCODERS[family])


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize(
    "pattern", [r"re:bert\.encoder\.layer\.\d+\.attention\.self\.query\.weight", "re:bert.encoder.*tense"]
)
def test_a_pattern_for_bert_says_which_one_would_match_in_another_encoder(family, pattern):
    model = encoder_of(family)
    with pytest.raises(TargetError) as caught:
        Targets(model).parameters(pattern)
    meant = re.search(r"(?:did you mean|layers are) '(re:[^']*)'", str(caught.value))[1]
    found = Targets(model).parameters(meant)
    assert found
    if "layers are" in str(caught.value):  # all matrices of the layers, and nothing else
        body = model.base_model_prefix
        lists = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and name.count(".") <= 2]
        matrices = {
            f"{name}.weight"
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and any(name.startswith(f"{path}.") for path in lists)
        }
        assert body and set(found) == matrices


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
