"""Do features carry the right answers, and do logits come back as the right answers and scores?"""

import collections
import io
import json
import math
import random
import re
import string
import tempfile
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from helpers.data import PLACES, squad_json
from helpers.models import build_tiny_tokenizer
from sparsification.tasks.errors import DataError
from sparsification.tasks.question_answering.answers import postprocess_qa_predictions
from sparsification.tasks.question_answering.data import load_squad_files
from sparsification.tasks.question_answering.features import prepare_train_features, prepare_validation_features
from sparsification.tasks.question_answering.metrics import f1_score, normalize_answer, squad_metrics, squad_v2_metrics
from sparsification.tasks.question_answering.nbest_json import _NBestText, write_json

# ---------------------------------------------------------------------------------------------------------------------
# Features


@pytest.fixture(scope="module")
def long_examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """Questions whose contexts need several windows, some without an answer."""
    path = tmp_path_factory.mktemp("long") / "long.json"
    path.write_text(json.dumps(squad_json(PLACES, impossible=True, long_context=True)), encoding="utf-8")
    return load_squad_files({"train": path}, cache_dir=path.parent)["train"][:]


def window_of(offsets: list, sequence_ids: list, context_index: int) -> tuple[int, int]:
    """The characters of the context that a feature covers."""
    inside = [offset for offset, sequence in zip(offsets, sequence_ids, strict=True) if sequence == context_index]
    return inside[0][0], inside[-1][1]


@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("pad_to_max_length", [True, False])
def test_labelled_tokens_are_the_answer(long_examples, padding_side, pad_to_max_length):
    tokenizer = build_tiny_tokenizer(padding_side)
    cutting = {"max_seq_length": 48, "doc_stride": 16, "pad_to_max_length": pad_to_max_length}
    features = prepare_train_features(long_examples, tokenizer, **cutting).to_pydict()
    mapped = prepare_validation_features(long_examples, tokenizer, **cutting).to_pydict()
    assert features["input_ids"] == mapped["input_ids"]
    by_id = {name: index for index, name in enumerate(long_examples["id"])}
    answered = collections.Counter()
    for index, input_ids in enumerate(features["input_ids"]):
        row = by_id[mapped["example_id"][index]]
        context, answers = long_examples["context"][row], long_examples["answers"][row]
        start, end = features["start_positions"][index], features["end_positions"][index]
        offsets = mapped["offset_mapping"][index]
        inside = [offset for offset in offsets if offset is not None]
        holds = bool(answers["text"]) and (
            inside[0][0] <= answers["answer_start"][0]
            and answers["answer_start"][0] + len(answers["text"][0]) <= inside[-1][1]
        )
        if holds:
            assert context[offsets[start][0] : offsets[end][1]] == answers["text"][0]
            answered[row] += 1
        else:
            assert start == end == input_ids.index(tokenizer.cls_token_id)
    assert set(answered) == {row for row, answers in enumerate(long_examples["answers"]) if answers["text"]}
    assert len(features["input_ids"]) > len(long_examples["id"]) * 2


def test_answer_in_the_last_token_of_a_window_is_labelled(tiny_tokenizer):
    examples = {
        "id": ["a"],
        "question": ["What is the capital of Peru?"],
        "context": ["The capital of Peru is Lima"],
        "answers": [{"text": ["Lima"], "answer_start": [23]}],
    }
    features = prepare_train_features(examples, tiny_tokenizer, max_seq_length=64, doc_stride=16).to_pydict()
    start, end = features["start_positions"][0], features["end_positions"][0]
    assert tiny_tokenizer.decode(features["input_ids"][0][start : end + 1]) == "lima"


def test_windows_cover_the_context_and_overlap_by_the_stride(long_examples, tiny_tokenizer):
    features = prepare_validation_features(long_examples, tiny_tokenizer, 48, 16, pad_to_max_length=False).to_pydict()
    windows = collections.defaultdict(list)
    for name, offsets in zip(features["example_id"], features["offset_mapping"], strict=True):
        windows[name].append([tuple(offset) for offset in offsets if offset is not None])
    for context, name in zip(long_examples["context"], long_examples["id"], strict=True):
        tokens = tiny_tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        assert sorted({offset for window in windows[name] for offset in window}) == tokens
        for left, right in zip(windows[name], windows[name][1:], strict=False):
            assert left[-16:] == right[:16]


def test_blanks_before_a_question_change_nothing_and_batches_are_left_alone(tiny_tokenizer):
    examples = {
        "id": ["a", "b"],
        "question": ["Who is the mayor?", "   Who is the mayor?"],
        "context": ["Lima is the capital."] * 2,
        "answers": [{"text": [], "answer_start": []}] * 2,
    }
    before = json.dumps(examples)
    features = prepare_train_features(examples, tiny_tokenizer, 32, 8).to_pydict()
    assert features["input_ids"][0] == features["input_ids"][1]
    assert json.dumps(examples) == before


def test_length_column_counts_real_tokens(long_examples, tiny_tokenizer):
    padded = prepare_train_features(long_examples, tiny_tokenizer, 48, 16, True, length_column="length").to_pydict()
    bare = prepare_train_features(long_examples, tiny_tokenizer, 48, 16, False, length_column="length").to_pydict()
    assert padded["length"] == bare["length"] == [len(ids) for ids in bare["input_ids"]]


def test_context_without_a_token_is_labelled_with_cls(tiny_tokenizer):
    examples = {
        "id": ["a"],
        "question": ["Who is the mayor?"],
        "context": [" "],
        "answers": [{"text": ["x"], "answer_start": [0]}],
    }
    features = prepare_train_features(examples, tiny_tokenizer, 32, 8).to_pydict()
    assert (features["start_positions"], features["end_positions"]) == ([0], [0])


def byte_tokenizer(template: bool, prefix_space: bool) -> PreTrainedTokenizerFast:
    """Build a tokenizer of single bytes, whose offsets leave out blanks only once pairs are joined."""
    letters = ["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    if template:
        backend.post_processor = processors.RobertaProcessing(
            ("</s>", 1), ("<s>", 0), trim_offsets=True, add_prefix_space=prefix_space
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", cls_token="<s>")


TOKENIZERS = {
    "WordPiece": build_tiny_tokenizer,
    "WordPiece, padding on the left": lambda: build_tiny_tokenizer("left"),
    "bytes, as RoBERTa": lambda: byte_tokenizer(True, False),
    "bytes, as RoBERTa with a blank before": lambda: byte_tokenizer(True, True),
    "bytes, no special tokens": lambda: byte_tokenizer(False, False),
}


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("pad", [True, False])
def test_features_are_those_of_every_pair_tokenized_by_itself(long_examples, name, pad):
    tokenizer = TOKENIZERS[name]()
    length, stride = (48, 16) if "WordPiece" in name else (150, 40)
    context_index = 1 if tokenizer.padding_side == "right" else 0
    texts = [long_examples["question"], long_examples["context"]]
    expected = tokenizer(
        *(texts if context_index else texts[::-1]),
        truncation="only_second" if context_index else "only_first",
        max_length=length,
        stride=stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length" if pad else False,
    )
    state = tokenizer.backend_tokenizer.to_str()
    trained = prepare_train_features(long_examples, tokenizer, length, stride, pad).to_pydict()
    mapped = prepare_validation_features(long_examples, tokenizer, length, stride, pad).to_pydict()
    assert tokenizer.backend_tokenizer.to_str() == state
    for column in tokenizer.model_input_names:
        assert trained[column] == mapped[column] == expected[column]
    owners = expected["overflow_to_sample_mapping"]
    assert mapped["example_id"] == [long_examples["id"][owner] for owner in owners]
    assert mapped["offset_mapping"] == [
        [
            list(offset) if sequence == context_index else None
            for offset, sequence in zip(offsets, expected.sequence_ids(index), strict=True)
        ]
        for index, offsets in enumerate(expected["offset_mapping"])
    ]


@pytest.mark.parametrize("words", [20, 40])
def test_question_that_leaves_no_room_is_named(tiny_tokenizer, words):
    examples = {"id": ["long-one"], "question": ["capital " * words], "context": ["Lima is the capital of Peru. " * 9]}
    message = f"question 'long-one' has {words} tokens.*--max_seq_length 32.*--doc_stride 16"
    with pytest.raises(DataError, match=message):
        prepare_validation_features(examples, tiny_tokenizer, max_seq_length=32, doc_stride=16)


# ---------------------------------------------------------------------------------------------------------------------
# Answers

CONTEXT = "one two three four five six seven eight nine ten eleven twelve"
WORDS = [match.span() for match in re.finditer(r"\w+", CONTEXT)]


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


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=5), st.floats(), st.floats(width=32)), min_size=1, max_size=5))
def test_n_best_lists_are_written_as_json_writes_them(rows):
    content = _NBestText()
    texts, numbers, others = [text for text, _, _ in rows], [row[1] for row in rows], [row[2] for row in rows]
    for name in texts:
        content.add(name, texts, np.array(numbers), np.array(others), np.array(others))
    written = io.StringIO()
    content.write_to(written)
    keys = ("text", "probability", "start_logit", "end_logit")
    records = [
        dict(zip(keys, (text, one, other, other), strict=True))
        for text, one, other in zip(texts, numbers, others, strict=True)
    ]
    lists = [json.dumps({name: records}, indent=4)[2:-2] for name in texts]
    assert written.getvalue() == "{\n" + ",\n".join(lists) + "\n}"


def two_questions() -> tuple[list[dict], list[dict], tuple[np.ndarray, np.ndarray]]:
    """Two questions of one feature each; the best answers are "two three" and "nine"."""
    examples = [{"id": "a", "context": CONTEXT}, {"id": "b", "context": CONTEXT}]
    features = [{"example_id": name, "offset_mapping": [None, None, *WORDS, None]} for name in "ba"]
    starts, ends = np.full((2, 15), -5.0, np.float32), np.full((2, 15), -5.0, np.float32)
    starts[0, 2 + 8] = ends[0, 2 + 8] = 4
    starts[1, 2 + 1] = ends[1, 2 + 2] = 4
    return examples, features, (starts, ends)


def test_answers_come_in_the_order_of_the_examples_and_from_data_sets_too(tmp_path):
    examples, features, logits = two_questions()
    expected = {"a": "two three", "b": "nine"}
    assert list(postprocess_qa_predictions(examples, features, logits).items()) == list(expected.items())
    tables = Dataset.from_list(examples), Dataset.from_list(features)
    assert postprocess_qa_predictions(*tables, logits) == expected
    assert list(tmp_path.iterdir()) == []


def test_files_carry_the_prefix_and_no_unfinished_file_stays(tmp_path):
    examples, features, logits = two_questions()
    postprocess_qa_predictions(examples, features, logits, output_dir=str(tmp_path / "new"), prefix="eval")
    names = {path.name for path in (tmp_path / "new").iterdir()}
    assert names == {"eval_predictions.json", "eval_nbest_predictions.json"}
    postprocess_qa_predictions(examples, features, logits, True, output_dir=str(tmp_path / "new"), prefix="eval")
    assert {path.name for path in (tmp_path / "new").iterdir()} == names | {"eval_null_odds.json"}


def test_failed_writing_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"a": object()})
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": 1}


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


def prediction(name: str, text: str, no_answer: float = 0.0) -> dict:
    return {"id": name, "prediction_text": text, "no_answer_probability": no_answer}


def reference(name: str, *truths: str) -> dict:
    return {"id": name, "answers": {"text": list(truths), "answer_start": [0] * len(truths)}}


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The  U.S.A., an ally", "usa ally"),
        ("a-an-the", "aanthe"),
        ("", ""),
        ("the", ""),
        ("Theatre «ä»\n", "theatre «ä»"),
    ],
)
def test_normalize_answer(text, normal):
    assert normalize_answer(text) == normal


def test_squad_metrics_by_hand():
    predictions = [prediction("1", "The red Car!"), prediction("2", "blue sea"), prediction("3", "moon")]
    references = [
        reference("1", "green", "red car"),  # the same once normalized: 1 and 1
        reference("2", "the deep blue sea"),  # 2 of 2 words right, 2 of 3 found: F1 0.8
        reference("3", "sun"),
        reference("4", "unasked"),
    ]
    assert squad_metrics(predictions, references) == pytest.approx({"exact_match": 25.0, "f1": 100 * 1.8 / 4})


def test_f1_counts_repeated_words_once_each():
    assert f1_score("x x y", "x z") == pytest.approx(2 * (1 / 3) * (1 / 2) / (1 / 3 + 1 / 2))


def test_squad_metrics_refuses_questions_without_answers():
    with pytest.raises(DataError, match=r"1 of 2 questions have no answer, 'b'.*--version_2_with_negative"):
        squad_metrics([prediction("a", "x")], [reference("a", "x"), reference("b")])
    with pytest.raises(DataError, match="no questions"):
        squad_metrics([], [])
    with pytest.raises(DataError, match="no prediction"):
        squad_v2_metrics([], [reference("a", "x")])


def test_squad_v2_metrics_by_hand():
    predictions = [prediction("1", "red car"), prediction("2", ""), prediction("3", "x"), prediction("4", "")]
    references = [reference("1", "a car"), reference("2", "sea"), reference("3"), reference("4")]
    f1 = 100 * 2 * 0.5 / 1.5
    assert squad_v2_metrics(predictions, references) == pytest.approx(
        {
            "exact": 25.0,
            "f1": (f1 + 100) / 4,
            "total": 4,
            "HasAns_exact": 0.0,
            "HasAns_f1": f1 / 2,
            "HasAns_total": 2,
            "NoAns_exact": 50.0,
            "NoAns_f1": 50.0,
            "NoAns_total": 2,
            # Answering nothing at all gets questions 3 and 4 right; the first answer adds its F1.
            "best_exact": 50.0,
            "best_exact_thresh": 0.0,
            "best_f1": (f1 + 200) / 4,
            "best_f1_thresh": 0.0,
        }
    )


def test_squad_v2_metrics_names_only_groups_that_exist():
    metrics = squad_v2_metrics([prediction("1", "x")], [reference("1", "x")])
    assert set(metrics) == {
        *("exact", "f1", "total", "HasAns_exact", "HasAns_f1", "HasAns_total"),
        *("best_exact", "best_exact_thresh", "best_f1", "best_f1_thresh"),
    }
    metrics = squad_v2_metrics([prediction("1", "x")], [reference("1")])
    assert "HasAns_exact" not in metrics
    assert metrics["NoAns_exact"] == 0.0


def plain_words(text: str) -> list[str]:
    kept = [character for character in text.lower() if character not in set(string.punctuation)]
    return [word for word in "".join(kept).split() if word not in ("a", "an", "the")]


texts = st.lists(st.sampled_from(["the", "red", "Red", "car.", "car", "a", "sea", "(sea)"]), max_size=4).map(" ".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(texts, st.lists(texts, max_size=3), st.booleans()), min_size=1, max_size=8), st.randoms())
def test_squad_v2_metrics_follow_the_plain_rule(rows, shuffler: random.Random):
    warnings = [index / len(rows) for index in range(len(rows))]
    shuffler.shuffle(warnings)
    predictions = [prediction(str(i), row[0], warnings[i]) for i, row in enumerate(rows)]
    references = [reference(str(i), *row[1]) for i, row in enumerate(rows)]

    def exact(i: int, text: str) -> float:
        truths = [plain_words(truth) for truth in rows[i][1] if plain_words(truth)] or [[]]
        return float(plain_words(text) in truths)

    metrics = squad_v2_metrics(predictions, references)
    assert metrics["exact"] == pytest.approx(100 * np.mean([exact(i, row[0]) for i, row in enumerate(rows)]))
    # The best threshold by trying each: what is doubted more than it becomes no answer.
    reached = [
        np.mean(
            [
                (exact(i, row[0]) if row[1] else float(not row[0])) if warnings[i] <= threshold else float(not row[1])
                for i, row in enumerate(rows)
            ]
        )
        for threshold in [-1.0, *sorted(warnings)]
    ]
    assert metrics["best_exact"] == pytest.approx(100 * max(reached))
    assert metrics["best_f1"] >= metrics["best_exact"] - 1e-9


def test_empty_answer_is_labelled_as_none(tiny_tokenizer):
    empty = {"text": [""], "answer_start": [0]}
    examples = {"question": ["Where is Riga?"] * 2, "context": ["Riga is in Latvia."] * 2}
    answers = [empty, {"text": ["", "Latvia"], "answer_start": [0, 11]}]
    table = prepare_train_features(examples | {"answers": answers}, tiny_tokenizer, max_seq_length=32, doc_stride=8)
    ids = table["input_ids"].to_pylist()[1]
    latvia = ids.index(tiny_tokenizer.convert_tokens_to_ids("latvia"))
    assert table["start_positions"].to_pylist() == table["end_positions"].to_pylist() == [0, latvia]
