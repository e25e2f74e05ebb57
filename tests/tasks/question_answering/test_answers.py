"""Do features carry the right answers, and do logits come back as the right answers and scores?"""

import json
import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.two_questions import CONTEXT, WORDS, two_questions
from sparsification.tasks.question_answering.answers import postprocess_qa_predictions

# ---------------------------------------------------------------------------------------------------------------------
# Features


def window_of(offsets: list, sequence_ids: list, context_index: int) -> tuple[int, int]:
    """The characters of the context that a feature covers."""
    inside = [offset for offset, sequence in zip(offsets, sequence_ids, strict=True) if sequence == context_index]
    return inside[0][0], inside[-1][1]


# ---------------------------------------------------------------------------------------------------------------------
# Answers


def plain_answer(rows: list[dict], starts: list, ends: list, n_best: int, longest: int, with_null: bool) -> list[tuple]:
    """State the rule in loops: all candidates (text, score, start logit, end logit) of one question, best first."""
    found, null = [], None
    for row, start_logits, end_logits in zip(rows, starts, ends, strict=True):
        offsets, cls = row["offset_mapping"], row.get("cls_index", 0)
        tokens = len(offsets)
        if null is None or start_logits[cls] + end_logits[cls] < null[1]:
            null = ((0, 0), start_logits[cls] + end_logits[cls], start_logits[cls], end_logits[cls])
        start_rank = list(reversed(np.argsort(start_logits[:tokens]).tolist()))[:n_best]
        end_rank = list(reversed(np.argsort(end_logits[:tokens]).tolist()))[:n_best]
        for start in start_rank:
            for end in end_rank:
                if offsets[start] is None or offsets[end] is None:
                    continue
                if start <= end <= start + longest - 1:
                    span = (offsets[start][0], offsets[end][1])
                    found.append((span, start_logits[start] + end_logits[end], start_logits[start], end_logits[end]))
    if with_null:
        found.append(null)
    found.sort(key=lambda candidate: -candidate[1])
    kept = found[:n_best]
    if with_null and (0, 0) not in [candidate[0] for candidate in kept]:
        kept.append(null)
    named = [(CONTEXT[span[0] : span[1]], *rest) for span, *rest in kept]
    if len(named) == 0 or (len(named) == 1 and named[0][0] == ""):
        named.insert(0, ("empty", 0.0, 0.0, 0.0))
    return named


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[dict], np.ndarray, np.ndarray]:
    """One question's features, with padding on one side, and logits full of ties; columns beyond a feature are -100."""
    side = draw(st.sampled_from(["left", "right"]))
    rows, lengths = [], []
    for _ in range(draw(st.integers(1, 3))):
        first = draw(st.integers(0, len(WORDS) - 1))
        words = WORDS[first : first + draw(st.integers(0, 8))]
        asked, padding = draw(st.integers(0, 3)), draw(st.integers(0, 3))
        if side == "right":
            row = {"offset_mapping": [None] * (2 + asked) + words + [None] * (1 + padding)}
        else:
            row = {"offset_mapping": [None] * (padding + 1) + words + [None] * (1 + asked), "cls_index": padding}
        rows.append(row | {"example_id": "q"})
        lengths.append(len(row["offset_mapping"]))
    width = max(lengths) + draw(st.integers(0, 2))
    logit = draw(st.sampled_from([st.integers(-3, 3), st.floats(-8, 8, width=32)]))
    logits = np.array(
        draw(st.lists(st.lists(logit, min_size=width, max_size=width), min_size=2 * len(rows), max_size=2 * len(rows))),
        dtype=np.float32,
    )
    for index in range(2 * len(rows)):
        logits[index, lengths[index % len(rows)] :] = -100
    return rows, logits[: len(rows)], logits[len(rows) :]


@settings(max_examples=150, deadline=None)
@given(questions(), st.integers(1, 6), st.integers(1, 5), st.booleans(), st.sampled_from([-2.0, 0.0, 2.0]))
def test_answers_follow_the_plain_rule(question, n_best, longest, with_null, threshold):
    rows, starts, ends = question
    expected = plain_answer(rows, list(starts), list(ends), n_best, longest, with_null)
    with tempfile.TemporaryDirectory() as folder:
        answers = postprocess_qa_predictions(
            [{"id": "q", "context": CONTEXT}],
            rows,
            (starts, ends),
            version_2_with_negative=with_null,
            n_best_size=n_best,
            max_answer_length=longest,
            null_score_diff_threshold=threshold,
            output_dir=folder,
        )
        written = {path.stem: json.loads(path.read_text())["q"] for path in Path(folder).iterdir()}
    n_best_found = written["nbest_predictions"]
    assert [(found["text"], found["start_logit"], found["end_logit"]) for found in n_best_found] == [
        (text, float(start), float(end)) for text, _, start, end in expected
    ]
    weights = [math.exp(float(score) - float(max(e[1] for e in expected))) for _, score, _, _ in expected]
    assert [found["probability"] for found in n_best_found] == pytest.approx(
        [weight / sum(weights) for weight in weights], rel=1e-5, abs=1e-12
    )
    if with_null:
        null = min(
            float(s[row.get("cls_index", 0)] + e[row.get("cls_index", 0)])
            for row, s, e in zip(rows, starts, ends, strict=True)
        )
        text, _, start, end = next(candidate for candidate in expected if candidate[0])
        assert written["null_odds"] == pytest.approx(null - float(start) - float(end), abs=1e-5)
        assert answers == {"q": "" if written["null_odds"] > threshold else text}
    else:
        assert answers == {"q": expected[0][0]}
    assert written["predictions"] == answers["q"]


def test_a_data_set_with_no_token_of_a_context_has_the_empty_answer():
    features = Dataset.from_list([{"example_id": "q", "offset_mapping": [None, None]}])
    logits = np.zeros((1, 2), np.float32)
    assert postprocess_qa_predictions([{"id": "q", "context": CONTEXT}], features, (logits, logits)) == {"q": "empty"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(questions(), min_size=1, max_size=5), st.integers(1, 30), st.integers(1, 9), st.booleans(), st.randoms()
)
def test_answers_of_a_question_do_not_depend_on_the_others(asked, n_best, longest, with_null, shuffler):
    rows, logits = [], ([], [])
    for number, (own, *own_logits) in enumerate(asked):
        for index, row in enumerate(own):
            rows.append(row | {"example_id": str(number), "cls_index": row.get("cls_index", 0)})
            for part, arrays in zip(logits, own_logits, strict=True):
                part.append(np.pad(arrays[index], (0, 30 - arrays.shape[1]), constant_values=-100))
    order = list(range(len(rows)))
    shuffler.shuffle(order)
    ranked = {str(n): [index for index in order if rows[index]["example_id"] == str(n)] for n in range(len(asked))}
    shuffled = [rows[index] for index in order]
    logits = tuple(np.array(part) for part in logits)
    with tempfile.TemporaryDirectory() as folder:
        postprocess_qa_predictions(
            [{"id": name, "context": CONTEXT} for name in ranked],
            shuffled if shuffler.random() < 0.5 else Dataset.from_list(shuffled),
            tuple(part[order] for part in logits),
            version_2_with_negative=with_null,
            n_best_size=n_best,
            max_answer_length=longest,
            output_dir=folder,
        )
        text = Path(folder, "nbest_predictions.json").read_text()
    found = json.loads(text)
    assert text == json.dumps(found, indent=4) + "\n"
    for name, indices in ranked.items():
        starts, ends = ([part[index] for index in indices] for part in logits)
        expected = plain_answer([rows[index] for index in indices], starts, ends, n_best, longest, with_null)
        scores = np.array([score for _, score, _, _ in expected])
        weights = np.exp(scores - scores.max())
        assert [tuple(record.values()) for record in found[name]] == [
            (text, float(weight), float(start), float(end))
            for (text, _, start, end), weight in zip(expected, weights / weights.sum(), strict=True)
        ]


def test_answers_come_in_the_order_of_the_examples_and_from_data_sets_too(tmp_path):
    examples, features, logits = two_questions()
    expected = {"a": "two three", "b": "nine"}
    assert list(postprocess_qa_predictions(examples, features, logits).items()) == list(expected.items())
    tables = Dataset.from_list(examples), Dataset.from_list(features)
    assert postprocess_qa_predictions(*tables, logits) == expected
    assert list(tmp_path.iterdir()) == []


def test_question_without_features_gets_an_answer_all_the_same():
    examples, features, logits = two_questions()
    for with_null in (False, True):
        answers = postprocess_qa_predictions(examples, features[:1], (logits[0][:1], logits[1][:1]), with_null)
        assert answers == {"a": "empty", "b": "nine"}


def test_wrong_number_of_logits_is_refused():
    examples, features, logits = two_questions()
    with pytest.raises(ValueError, match="3 arrays"):
        postprocess_qa_predictions(examples, features, (*logits, logits[0]))
    with pytest.raises(ValueError, match="1 features for 2"):
        postprocess_qa_predictions(examples, features, (logits[0][:1], logits[1][:1]))


# ---------------------------------------------------------------------------------------------------------------------
# Metrics
