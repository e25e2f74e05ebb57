"""Scores of entities: equal to seqeval's."""

import doctest
import json

import pytest

from helpers import ROOT
from sparsification.tasks.token_classification import metrics
from sparsification.tasks.token_classification.metrics import entities, entity_scores

GOLDEN = json.loads((ROOT / "tests/golden/seqeval.json").read_text())


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_scores_of_entities_are_those_of_seqeval(case):
    assert [[list(entity) for entity in entities(tags)] for tags in case["true"]] == case["entities"]
    scores = entity_scores(case["predicted"], case["true"], by_type=True)
    expected = {name: case[name] for name in ("precision", "recall", "f1", "accuracy")}
    for kind, values in case["types"].items():
        expected |= {f"{kind}_{name}": value for name, value in values.items()}
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_example_of_the_scores_gives_what_it_says():
    assert doctest.testmod(metrics) == doctest.TestResults(failed=0, attempted=1)


def test_tags_without_prefix_or_without_type_mark_entities_too():
    assert entities(["PER", "PER", "O", "LOC"]) == [("PER", 0, 1), ("LOC", 3, 3)]
    assert entities(["B", "I", "B", "O"]) == [("", 0, 1), ("", 2, 2)]


def test_nothing_to_score_is_zero_and_unequal_lengths_are_refused():
    assert entity_scores([["O"]], [["O"]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "accuracy": 1.0}
    assert entity_scores([], [])["accuracy"] == 0.0
    with pytest.raises(ValueError, match="must have the same number of sentences and of words"):
        entity_scores([["O"]], [["O", "O"]])
