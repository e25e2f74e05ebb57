"""Predictions of every task, from PyTorch, from an export and from a folder of optimum-onnx's layout."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    pipeline,
)

from helpers.data import PLACES, tagged_words
from helpers.models import build_tiny_tokenizer, save_bert
from helpers.tiny_encoders import save_tiny_encoder
from sparsification.cli.main import main
from sparsification.export.onnx import export_onnx
from sparsification.tasks.embedding.modules import SentenceModules
from sparsification.tasks.errors import TaskError
from sparsification.tasks.predict import load_predictor
from sparsification.tasks.token_classification.predictor import Words

TEXTS = [f"{city} lies beside the {water}." for city, _, water, _ in PLACES[:5]]
KINDS = {
    "classifier": (BertForSequenceClassification, {"id2label": {0: "no", 1: "yes", 2: "maybe"}}, "logits"),
    "reranker": (BertForSequenceClassification, {"num_labels": 1}, "logits"),
    "tagger": (BertForTokenClassification, {"id2label": {0: "O", 1: "B-LOC", 2: "I-LOC"}}, "logits"),
    "encoder": (BertModel, {}, "last_hidden_state"),
}
FORMS = ["plain", "onnx", "onnx/model.onnx", "optimum", "optimum/onnx/model.onnx"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of each task: as Transformers saves it, as an export, and as optimum-onnx lays it out."""
    root, tokenizer = tmp_path_factory.mktemp("models"), build_tiny_tokenizer()
    for name, (kind, settings, output) in KINDS.items():
        plain = save_bert(root / name / "plain", kind, max_position_embeddings=64, initializer_range=0.5, **settings)
        batch = dict(tokenizer(TEXTS[:2], padding=True, return_tensors="pt"))
        export_onnx(
            kind.from_pretrained(plain).eval(),
            root / name / "onnx",
            tokenizer,
            input_names=list(batch),
            output_names=[output],
            check_batches=[batch],
            exporter="torchscript",
        )
        ignored = shutil.ignore_patterns("model.safetensors")
        optimum = shutil.copytree(plain, root / name / "optimum", ignore=ignored)
        (optimum / "onnx").mkdir()
        shutil.copy(root / name / "onnx" / "model.onnx", optimum / "onnx")
    for form in ("plain", "onnx", "optimum"):
        SentenceModules("cls", normalize=False).save(root / "encoder" / form, 32)
    return root


@pytest.mark.parametrize("form", FORMS)
def test_classifier_gives_the_probabilities_of_transformers_pipeline(form, folders):
    found = load_predictor(folders / "classifier" / form).predict([(text,) for text in TEXTS])
    expected = pipeline("text-classification", str(folders / "classifier" / "plain"), top_k=None)(TEXTS)
    for one, labels in zip(found, expected, strict=True):
        assert one["label"] == labels[0]["label"]
        for label in labels:
            assert one["scores"][label["label"]] == pytest.approx(label["score"], abs=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_reranker_gives_its_score_for_pairs(form, folders):
    pairs = [("Where is Oslo?", text) for text in TEXTS]
    found = load_predictor(folders / "reranker" / form).predict(pairs)
    model = BertForSequenceClassification.from_pretrained(folders / "reranker" / "plain").eval()
    for pair, one in zip(pairs, found, strict=True):
        with torch.no_grad():
            expected = model(**build_tiny_tokenizer()(*pair, return_tensors="pt")).logits.item()
        assert one == {"score": pytest.approx(expected, abs=1e-4)}


@pytest.mark.parametrize("form", FORMS)
def test_tagger_gives_the_entities_of_transformers_pipeline(form, folders):
    found = load_predictor(folders / "tagger" / form).predict([(text,) for text in TEXTS])
    find = pipeline(
        "token-classification", str(folders / "tagger" / "plain"), aggregation_strategy="first", ignore_labels=["O"]
    )
    assert any(one["entities"] for one in found)
    for text, one in zip(TEXTS, found, strict=True):
        expected = [(item["entity_group"], item["start"], item["end"]) for item in find(text)]
        assert [(item["entity"], item["start"], item["end"]) for item in one["entities"]] == expected
        assert all(item["text"] == text[item["start"] : item["end"]] for item in one["entities"])


def test_tagger_keeps_the_words_of_a_file(folders, tmp_path):
    path = tmp_path / "words.json"
    rows = [
        {"tokens": ["Oslo's", "old fjord"], "ner_tags": ["B-LOC", "O"]},
        {"tokens": ["U.S."], "ner_tags": ["B-LOC"]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    predictor = load_predictor(folders / "tagger" / "plain")
    records = predictor.read(path)
    found = predictor.predict(records.inputs)
    assert [one["words"] for one in found] == [["Oslo's", "old fjord"], ["U.S."]]
    assert set(predictor.scores(records, found)) == {"precision", "recall", "f1", "accuracy"}


@pytest.mark.parametrize("family", ["RoBERTa", "XLM-R", "DeBERTa v1", "DeBERTa v3"])
def test_tagger_tags_the_words_of_a_file_by_the_tokens_that_training_labels(family, tmp_path):
    """These tokenizers put the blank before a word into its first token, or make a token of it."""
    labels = {0: "O", 1: "B-LOC", 2: "I-LOC"}
    save_tiny_encoder(family, tmp_path, "ForTokenClassification", scale=5.0, id2label=labels)
    AutoTokenizer.from_pretrained(tmp_path, add_prefix_space=True).save_pretrained(tmp_path)  # as run_ner.py does
    sentences = [words for words, _ in tagged_words(PLACES)]
    found = load_predictor(tmp_path).predict([Words(words) for words in sentences])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = AutoModelForTokenClassification.from_pretrained(tmp_path).eval()
    for words, one in zip(sentences, found, strict=True):
        batch = tokenizer(words, is_split_into_words=True, return_tensors="pt")
        with torch.no_grad():
            numbers = model(**batch).logits[0].argmax(-1).tolist()
        owners = batch.word_ids(0)
        assert one["words"] == words
        assert one["tags"] == [labels[numbers[owners.index(word)]] for word in range(len(words))]


@pytest.mark.parametrize("form", FORMS)
def test_embeddings_have_the_models_own_pooling_and_normalization(form, folders):
    found = load_predictor(folders / "encoder" / form).predict([(text,) for text in TEXTS])
    model = BertModel.from_pretrained(folders / "encoder" / "plain").eval()
    for text, one in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            hidden = model(**build_tiny_tokenizer()(text, return_tensors="pt")).last_hidden_state
        np.testing.assert_allclose(one["embedding"], hidden[0, 0].numpy(), atol=1e-4)


def test_modules_above_the_folder_of_the_file_are_read(folders, tmp_path):
    folder = shutil.copytree(folders / "encoder" / "optimum", tmp_path / "optimum")
    shutil.copy(folder / "config.json", folder / "onnx")  # as optimum-onnx writes it
    shutil.copy(folder / "tokenizer.json", folder / "onnx")
    expected = load_predictor(folders / "encoder" / "plain").predict([(TEXTS[0],)])[0]["embedding"]
    found = load_predictor(folder).predict([(TEXTS[0],)])[0]["embedding"]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_command_prints_predictions_as_text_and_as_json(folders, tmp_path, capsys):
    model = str(folders / "classifier" / "onnx")
    expected = load_predictor(model).predict([(text,) for text in TEXTS])
    assert main(["predict", model, "--text", TEXTS[0]]) == 0
    assert capsys.readouterr().out == f"{expected[0]['label']} ({expected[0]['score']:.1%})\n"
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n\n")
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("number", "text"), *enumerate(TEXTS)])
    for name in ("texts.txt", "texts.csv"):
        assert main(["predict", model, "--file", str(tmp_path / name), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == expected
        assert main(["predict", model, "--file", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out.splitlines()[4].endswith(f"  {TEXTS[4]}")
    pair = ["--text", "Where is Oslo?", "--text_pair", TEXTS[0]]
    assert main(["predict", str(folders / "reranker" / "plain"), *pair, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0].keys() == {"score"}
    assert main(["predict", str(folders / "encoder" / "plain"), "--text", TEXTS[0]]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 32


def test_texts_are_cut_off_at_the_models_maximum(folders):
    predictor = load_predictor(folders / "classifier" / "onnx")
    assert predictor.max_length == 64
    long = ("Oslo lies beside the fjord. " * 40,)
    assert predictor.predict([long])[0]["label"] in ("no", "yes", "maybe")
    short = load_predictor(folders / "classifier" / "onnx", max_length=8)
    assert short.predict([long]) == short.predict([("Oslo lies beside the fjord.",)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --text --file --question is required"),
        (["--text", "a", "--file", "b"], "one of the arguments --text --file --question is required"),
        (["--file", "b", "--text_pair", "a"], "--text_pair needs --text"),
        (["--text", "a", "--question", "b", "--context", "c"], "exclude each other"),
    ],
)
def test_wrong_command_lines_end_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(["predict", "x", *arguments])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_models_of_other_tasks_are_refused_in_one_line(folders, tmp_path, capsys):
    config = tmp_path / "config.json"
    (tmp_path / "tokenizer.json").write_text("{}")
    for values, message in (({"architectures": ["BertForMaskedLM"]}, "got BertForMaskedLM"), ({}, "got none")):
        config.write_text(json.dumps(values))
        with pytest.raises(TaskError, match=f"the architecture in its config.json must end in .* {message}"):
            load_predictor(tmp_path)
    config.write_text("[]")
    with pytest.raises(TaskError, match=r"config.json"):
        load_predictor(tmp_path)
    config.write_text(json.dumps({"architectures": [BertForQuestionAnswering.__name__]}))
    assert main(["predict", str(folders / "classifier" / "onnx"), "--question", "a", "--context", "b"]) == 1
    assert "its outputs are logits: a model that answers questions" in capsys.readouterr().err
    (tmp_path / "mixed.txt").write_text("a\tb\nc\n")
    assert main(["predict", str(folders / "reranker" / "onnx"), "--file", str(tmp_path / "mixed.txt")]) == 1
    assert "expected one text on each line, or two with a tab between them" in capsys.readouterr().err
