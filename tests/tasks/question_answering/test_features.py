"""Features of questions and contexts, and the labels of their answers."""

import collections
import json

import pytest
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from helpers.data import PLACES, squad_json
from helpers.models import build_tiny_tokenizer
from sparsification.tasks.question_answering.data import DataError, load_squad_files
from sparsification.tasks.question_answering.features import prepare_train_features, prepare_validation_features


@pytest.fixture(scope="module")
def long_examples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    """Questions whose contexts need several windows, some without an answer."""
    path = tmp_path_factory.mktemp("long") / "long.json"
    path.write_text(json.dumps(squad_json(PLACES, impossible=True, long_context=True)), encoding="utf-8")
    return load_squad_files({"train": path}, cache_dir=path.parent)["train"][:]


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


texts = st.lists(st.sampled_from(["the", "red", "Red", "car.", "car", "a", "sea", "(sea)"]), max_size=4).map(" ".join)


def test_empty_answer_is_labelled_as_none(tiny_tokenizer):
    empty = {"text": [""], "answer_start": [0]}
    examples = {"question": ["Where is Riga?"] * 2, "context": ["Riga is in Latvia."] * 2}
    answers = [empty, {"text": ["", "Latvia"], "answer_start": [0, 11]}]
    table = prepare_train_features(examples | {"answers": answers}, tiny_tokenizer, max_seq_length=32, doc_stride=8)
    ids = table["input_ids"].to_pylist()[1]
    latvia = ids.index(tiny_tokenizer.convert_tokens_to_ids("latvia"))
    assert table["start_positions"].to_pylist() == table["end_positions"].to_pylist() == [0, latvia]
