"""Every kind of saved model answers what an evaluation would answer."""

import json
import shutil

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
)

from helpers.data import PLACES, squad_json
from helpers.exports import needs_compiler, prune_model
from helpers.models import build_tiny_tokenizer
from helpers.recipes import PRUNE_BLOCKS_QUANTIZE
from sparsification.cli.main import main
from sparsification.export.onnx import export_onnx
from sparsification.export.sparse import export_sparse
from sparsification.manager import ScheduledModifierManager
from sparsification.quantization.checkpoint import save_quantization
from sparsification.tasks.question_answering.answers import postprocess_qa_predictions
from sparsification.tasks.question_answering.features import prepare_validation_features
from sparsification.tasks.question_answering.predict import PredictError, load_predictor

QUESTION = "What does Riga lie beside?"
CONTEXT = squad_json(PLACES[6:7], long_context=True)["data"][0]["paragraphs"][0]["context"]
WINDOWS = {"max_seq_length": 48, "doc_stride": 12}
FLAGS = [f"--{name}={value}" for name, value in WINDOWS.items()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A sparse model as Transformers saves it, the same quantized, and the quantized one's exports."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = build_tiny_tokenizer()
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, initializer_range=0.2, **size)
    model = prune_model(BertForQuestionAnswering(config)).eval()
    for name in ("plain", "int8"):
        tokenizer.save_pretrained(folder / name)
        model.save_pretrained(folder / name)
    manager = ScheduledModifierManager.from_yaml(PRUNE_BLOCKS_QUANTIZE)
    manager.initialize(model)
    manager.apply_one_shot()
    batch = dict(tokenizer([QUESTION] * 2, [CONTEXT] * 2, truncation=True, max_length=64, return_tensors="pt"))
    with torch.no_grad():
        model(**batch)
    manager.finalize()
    model.save_pretrained(folder / "int8")
    save_quantization(model, folder / "int8")
    outputs = ["start_logits", "end_logits"]
    for target, place in (("onnxruntime", "onnx"), ("deepsparse", "onnx/deepsparse")):
        given = {"input_names": list(batch), "output_names": outputs, "check_batches": [batch], "target": target}
        export_onnx(model, folder / place, tokenizer, **given, exporter="torchscript")
    return folder


@pytest.fixture(scope="module")
def sparse(folders):
    """The folder of exports, with a sparse file in it."""
    exported = shutil.copytree(folders / "onnx", folders / "sparse")
    tokenizer = build_tiny_tokenizer()
    export_sparse(exported / "model.onnx", [tokenizer([QUESTION], [CONTEXT[:150]], return_tensors="pt")])
    return exported


def _evaluated(folder, tmp_path, negative: bool) -> list[dict]:
    """The n-best list that an evaluation writes, with the windows of one batch padded to one length."""
    model, tokenizer = AutoModelForQuestionAnswering.from_pretrained(folder), build_tiny_tokenizer()
    example = {"id": "0", "question": QUESTION, "context": CONTEXT}
    examples = {name: [value] for name, value in example.items()}
    features = prepare_validation_features(examples, tokenizer, **WINDOWS).to_pylist()
    assert len(features) > 3
    names = ("input_ids", "attention_mask", "token_type_ids")
    with torch.no_grad():
        outputs = model(**{name: torch.tensor([feature[name] for feature in features]) for name in names})
    logits = outputs.start_logits.numpy(), outputs.end_logits.numpy()
    postprocess_qa_predictions([example], features, logits, negative, output_dir=str(tmp_path))
    return json.loads((tmp_path / "nbest_predictions.json").read_text())["0"]


@pytest.mark.parametrize("negative", [False, True])
def test_answers_are_those_of_an_evaluation(negative, folders, tmp_path):
    answers = load_predictor(folders / "plain").answer(QUESTION, CONTEXT, version_2_with_negative=negative, **WINDOWS)
    expected = _evaluated(folders / "plain", tmp_path, negative)
    of_evaluation = [(record["text"], pytest.approx(record["probability"], rel=1e-4)) for record in expected]
    found = [(answer.answer, answer.probability) for answer in answers]
    assert found[0] == of_evaluation[0]
    assert all(pair in of_evaluation for pair in found)
    assert len(found) == len({(answer.start, answer.end) for answer in answers})
    for answer in answers:
        assert answer.answer == ("" if answer.start is None else CONTEXT[answer.start : answer.end])
    assert any(answer.start is None for answer in answers) == negative


@pytest.mark.parametrize("name", ["int8", "onnx", "onnx/model.onnx", "onnx/deepsparse", "onnx/deepsparse/model.onnx"])
def test_quantized_model_answers_alike_in_every_form(name, folders):
    expected = load_predictor(folders / "int8").answer(QUESTION, CONTEXT, **WINDOWS)
    answers = load_predictor(folders / name).answer(QUESTION, CONTEXT, **WINDOWS)
    assert answers[0].answer == expected[0].answer
    assert answers[0].probability == pytest.approx(expected[0].probability, abs=0.05)
    # Its fp32 weights alone would give others.
    if name == "int8":
        plain = load_predictor(folders / "plain").answer(QUESTION, CONTEXT, **WINDOWS)
        assert plain[0].probability != expected[0].probability


@needs_compiler
@pytest.mark.parametrize("name", ["", "model.sparse.onnx"])
def test_sparse_file_answers_as_the_dense_one(name, sparse):
    expected = load_predictor(sparse / "model.onnx").answer(QUESTION, CONTEXT, **WINDOWS)
    answers = load_predictor(sparse / name).answer(QUESTION, CONTEXT, **WINDOWS)
    assert answers[0].answer == expected[0].answer
    assert answers[0].probability == pytest.approx(expected[0].probability, abs=0.05)


def test_command_prints_answers_as_text_and_as_json(folders, tmp_path, capsys):
    expected = load_predictor(folders / "onnx").answer(QUESTION, CONTEXT, version_2_with_negative=True, **WINDOWS)
    (tmp_path / "context.txt").write_text(CONTEXT, encoding="utf-8")
    arguments = ["predict", str(folders / "onnx"), "--question", QUESTION, *FLAGS, "--version_2_with_negative"]
    arguments += ["--n_best", "30"]
    assert main([*arguments, "--context", CONTEXT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(expected)
    for line, answer in zip(lines, expected, strict=True):
        place = "" if answer.start is None else f", characters {answer.start} to {answer.end}"
        assert line == f"{answer.answer or 'no answer'}  ({answer.probability:.1%}{place})"
    assert any(line.startswith("no answer  (") for line in lines)
    assert main([*arguments, "--context_file", str(tmp_path / "context.txt"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [vars(answer) for answer in expected]


def test_characters_of_an_answer_are_those_of_the_file(folders, tmp_path, capsys):
    context = CONTEXT.replace(". ", ".\r\n")
    (tmp_path / "context.txt").write_bytes(b"\xef\xbb\xbf" + context.encode())  # as editors on Windows write it
    arguments = ["predict", str(folders / "plain"), "--question", QUESTION, *FLAGS, "--json"]
    assert main([*arguments, "--context_file", str(tmp_path / "context.txt")]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert answer["start"] > context.index("\r\n")
    assert context[answer["start"] : answer["end"]] == answer["answer"]


def test_what_cannot_be_asked_is_told_in_one_line(folders, tmp_path, capsys):
    asked = ["--question", QUESTION, "--context", CONTEXT]
    bare = shutil.copytree(folders / "onnx", tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    broken = shutil.copytree(folders / "onnx", tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"no model")
    (tmp_path / "empty").mkdir()
    wrong = {
        str(tmp_path / "nowhere"): "nowhere: no such file or folder",
        str(tmp_path / "empty"): "empty holds no model: neither model.sparse.onnx, model.onnx nor config.json",
        str(bare): "bare has no tokenizer: it must hold the model's tokenizer.json",
        str(broken): "broken: Error parsing message",
        str(folders / "plain" / "config.json"): "config.json is neither a folder nor an .onnx file",
    }
    for model, message in wrong.items():
        assert main(["predict", model, *asked]) == 1
        out, err = capsys.readouterr()
        assert out == ""
        assert message in err and len(err.splitlines()) == 1
    plain = str(folders / "plain")
    assert main(["predict", plain, "--question", QUESTION, "--context_file", str(tmp_path / "nothing.txt")]) == 1
    assert "nothing.txt" in capsys.readouterr().err
    assert main(["predict", plain, *asked, "--max_seq_length", "10", "--doc_stride", "4"]) == 1
    assert "tokens: of --max_seq_length 10 it leaves" in capsys.readouterr().err
    for empty in ({"question": " ", "context": CONTEXT}, {"question": QUESTION, "context": ""}):
        with pytest.raises(PredictError, match="is empty"):
            load_predictor(folders / "plain").answer(**empty)


def test_exported_classifier_is_refused_in_one_line(tmp_path, tiny_tokenizer):
    torch.manual_seed(0)
    settings = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tiny_tokenizer), **settings)).eval()
    batch = dict(tiny_tokenizer(["Oslo", "Lima is the capital."], padding=True, return_tensors="pt"))
    export_onnx(
        model,
        tmp_path,
        tiny_tokenizer,
        input_names=list(batch),
        output_names=["logits"],
        check_batches=[batch],
        exporter="torchscript",
    )
    with pytest.raises(PredictError, match="outputs are logits: a model that answers questions also has start_logits"):
        load_predictor(tmp_path)


@pytest.mark.parametrize("name", ["plain", "onnx"])
def test_windows_fit_the_model_by_default(name, folders):
    model = load_predictor(folders / name)
    long = CONTEXT * 4
    length = len(build_tiny_tokenizer()(QUESTION, add_special_tokens=False)["input_ids"])
    assert model.max_length == 128
    for context in ("Riga is the capital of Latvia.", long):
        found = model.answer(QUESTION, context)
        expected = model.answer(QUESTION, context, max_seq_length=128, doc_stride=42)
        assert found == expected and found[0].answer in context
    # Half of what a long question leaves.
    question = QUESTION.rstrip("?") + " and the river" * 30
    length = len(build_tiny_tokenizer()(question, add_special_tokens=False)["input_ids"])
    expected = model.answer(question, long, max_seq_length=128, doc_stride=(128 - 3 - length) // 2)
    assert model.answer(question, long) == expected
    assert model.answer(question, long, max_seq_length=500) == expected


@pytest.mark.parametrize(
    ("flags", "repeats", "message"),
    [
        ([], 60, "tokens: of the model's 128 it leaves none for the context"),
        (["--max_seq_length", "40"], 20, "tokens: of --max_seq_length 40 it leaves none for the context"),
        (["--max_seq_length", "500"], 60, "tokens: of the model's 128 it leaves none for the context"),
        (["--doc_stride", "120"], 0, "--doc_stride 120 has to be less than the 119 tokens that the question leaves of"),
    ],
)
def test_what_does_not_fit_is_told_in_flags_that_were_given(flags, repeats, message, folders, capsys):
    question = QUESTION.rstrip("?") + " and the river" * repeats + "?"
    assert main(["predict", str(folders / "plain"), "--question", question, "--context", CONTEXT, *flags]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert all(word in flags for word in err.split() if word.startswith("--"))


@needs_compiler
def test_sparse_file_without_a_compiler_says_what_is_missing(sparse, tmp_path, capsys, monkeypatch):
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    asked = ["--question", QUESTION, "--context", CONTEXT, *FLAGS]
    assert main(["predict", str(sparse), *asked]) == 1
    assert "needs a C++ compiler once, and there is none" in capsys.readouterr().err
    assert main(["predict", str(sparse / "model.onnx"), *asked]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "x", "--question", "y"], "one of the arguments --context --context_file is required"),
        (["predict", "x", "--context", "y"], "required: --question"),
        (["predikt"], "invalid choice: 'predikt'"),
    ],
)
def test_wrong_command_lines_end_with_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err
