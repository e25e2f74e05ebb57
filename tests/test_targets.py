"""Names, patterns and tokens: which parameters do they mean?"""

import time

import pytest
import torch.nn as nn

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
