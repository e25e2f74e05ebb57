"""Two models on a data file: metrics, agreement, changes, and the exit status of the command."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from helpers.data import PLACES, squad_json
from helpers.models import save_bert
from sparsification.cli.main import main
from sparsification.tasks.gate import compare_models, failures
from sparsification.tasks.predict import load_predictor
from sparsification.tasks.token_classification.predictor import Words

TEXTS = [f"{city} lies beside the {water}." for city, _, water, _ in PLACES]
KINDS = {
    "classifier": (BertForSequenceClassification, {"id2label": {0: "no", 1: "yes"}}),
    "reranker": (BertForSequenceClassification, {"num_labels": 1}),
    "tagger": (BertForTokenClassification, {"id2label": {0: "O", 1: "B-LOC", 2: "I-LOC"}}),
    "encoder": (BertModel, {}),
    "answers": (BertForQuestionAnswering, {}),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models of each task, of which the second one has other weights in its last layer."""
    root = tmp_path_factory.mktemp("models")
    for name, (kind, settings) in KINDS.items():
        model = kind.from_pretrained(save_bert(root / name / "dense", kind, initializer_range=0.3, **settings))
        with torch.no_grad():
            layer = model.base_model.encoder.layer[1].output.dense.weight
            layer.copy_(torch.randn(layer.shape, generator=torch.Generator().manual_seed(1)))
        model.save_pretrained(shutil.copytree(root / name / "dense", root / name / "sparse"))
    return root


def write_csv(path: Path, *rows: tuple) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def logits(folder: Path, texts: list[str]) -> np.ndarray:
    model, tokenizer = (
        BertForSequenceClassification.from_pretrained(folder).eval(),
        AutoTokenizer.from_pretrained(folder),
    )
    with torch.no_grad():
        return np.concatenate([model(**tokenizer(text, return_tensors="pt")).logits.numpy() for text in texts])


def test_classifiers_are_compared_by_their_labels(folders, tmp_path):
    paths = [folders / "classifier" / name for name in ("dense", "sparse")]
    dense, sparse = (logits(path, TEXTS) for path in paths)
    right = [("no", "yes")[number] for number in dense.argmax(1)]
    data = write_csv(tmp_path / "data.csv", ("text", "label"), *zip(TEXTS, right, strict=True))
    found = compare_models(*paths, data, changes=3)
    same = float((dense.argmax(1) == sparse.argmax(1)).mean())
    assert 0 < same < 1
    assert found.agreement == pytest.approx(same)
    assert found.metrics == {"accuracy": (1.0, pytest.approx(same))}
    shares = [np.exp(values[:, 1]) / np.exp(values).sum(1) for values in (dense, sparse)]
    largest = np.argsort(-np.abs(shares[0] - shares[1]), kind="stable")[:3]
    assert [change.text for change in found.changes] == [TEXTS[row] for row in largest]
    assert found.bytes[0] == (paths[0] / "model.safetensors").stat().st_size
    assert min(found.latency) > 0 and found.speedup > 0
    assert failures(found, same, same) == []
    assert len(failures(found, same + 0.01, same + 0.01)) == 2


def test_rerankers_are_compared_by_the_order_of_their_scores(folders, tmp_path):
    paths = [folders / "reranker" / name for name in ("dense", "sparse")]
    dense, sparse = (logits(path, TEXTS)[:, 0] for path in paths)
    pairs = [(a, b) for a in range(len(TEXTS)) for b in range(len(TEXTS)) if a != b]
    same = np.mean([(dense[a] > dense[b]) == (sparse[a] > sparse[b]) for a, b in pairs])
    data = write_csv(tmp_path / "data.csv", ("text", "label"), *zip(TEXTS, dense.tolist(), strict=True))
    found = compare_models(*paths, data)
    assert found.agreement == pytest.approx(same)
    assert found.main_metric == "pearson"
    assert found.metrics["mse"] == (pytest.approx(0, abs=1e-8), pytest.approx(((dense - sparse) ** 2).mean(), rel=1e-3))


def test_taggers_are_compared_by_the_tags_of_words(folders, tmp_path):
    data = tmp_path / "data.json"
    rows = [{"tokens": text.split(), "ner_tags": ["B-LOC", *["O"] * (len(text.split()) - 1)]} for text in TEXTS]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = [folders / "tagger" / name for name in ("dense", "sparse")]
    found = compare_models(*paths, data)
    tags = [[one["tags"] for one in load_predictor(path).predict([Words(r["tokens"]) for r in rows])] for path in paths]
    same = np.mean([np.mean([a == b for a, b in zip(*pair, strict=True)]) for pair in zip(*tags, strict=True)])
    assert found.agreement == pytest.approx(same) and 0 < same < 1
    assert set(found.metrics) == {"precision", "recall", "f1", "accuracy"}


def test_embeddings_are_compared_by_their_neighbours(folders, tmp_path):
    paths = [folders / "encoder" / name for name in ("dense", "sparse")]
    unique = list(dict.fromkeys(TEXTS))
    texts = write_csv(tmp_path / "texts.csv", ("text",), *((text,) for text in unique))
    found = compare_models(*paths, texts)
    nearest = []
    for path in paths:
        vectors = np.array([one["embedding"] for one in load_predictor(path).predict([(text,) for text in unique])])
        scores = vectors @ vectors.T - 9 * np.eye(len(unique))
        nearest.append([set(row[:10]) for row in np.argsort(-scores, axis=1)[:, : len(unique) - 1]])
    same = np.mean([len(a & b) / len(a) for a, b in zip(*nearest, strict=True)])
    assert found.agreement == pytest.approx(same)
    assert found.metrics == {}
    pairs = write_csv(tmp_path / "pairs.csv", ("question", "text"), *((f"Where {text}", text) for text in unique))
    assert set(compare_models(*paths, pairs).metrics) == {"recall_at_10", "mrr_at_10"}


def test_answers_are_compared(folders, tmp_path):
    data = tmp_path / "squad.json"
    data.write_text(json.dumps(squad_json(PLACES[:4])))
    paths = [folders / "answers" / name for name in ("dense", "sparse")]
    found = compare_models(*paths, data)
    assert set(found.metrics) == {"exact_match", "f1"}
    answers = [
        [one["answer"] for one in load_predictor(path).predict(load_predictor(path).read(data).inputs)]
        for path in paths
    ]
    assert found.agreement == pytest.approx(np.mean([a.lower() == b.lower() for a, b in zip(*answers, strict=True)]))
    assert compare_models(paths[0], paths[0], data).agreement == 1.0


def test_command_exits_by_its_minima(folders, tmp_path, capsys):
    dense, sparse = (str(folders / "classifier" / name) for name in ("dense", "sparse"))
    data = str(write_csv(tmp_path / "data.csv", ("text", "label"), *((text, "yes") for text in TEXTS)))
    assert main(["compare", dense, dense, "--data", data, "--min_agreement", "1.0"]) == 0
    out = capsys.readouterr().out
    assert "equal labels: 100.00%" in out and "accuracy" in out and "->" not in out
    file = tmp_path / "figures.json"
    assert main(["compare", dense, sparse, "--data", data, "--min_agreement", "1.0", "--json", str(file)]) == 3
    out, err = capsys.readouterr()
    assert " -> " in out
    figures = json.loads(file.read_text())
    assert err == f"the share of equal labels is {figures['agreement']:.4f}, below --min_agreement 1\n"
    assert main(["compare", dense, sparse, "--data", data, "--min_metric", "1.1"]) == 3
    assert "accuracy is " in capsys.readouterr().err


def test_what_cannot_be_compared_is_refused_in_one_line(folders, tmp_path, capsys):
    models = {name: str(folders / name / "dense") for name in KINDS}
    data = str(write_csv(tmp_path / "data.csv", ("text",), *((text,) for text in TEXTS)))
    wrong = [
        ([models["classifier"], models["tagger"], "--data", data], "must be models of one task with the same labels"),
        ([models["classifier"], models["reranker"], "--data", data], "must be models of one task with the same labels"),
        ([models["classifier"]] * 2 + ["--data", "none.csv"], "--data none.csv: no such file"),
        ([models["classifier"]] * 2 + ["--data", data, "--min_metric", "0.5"], "--min_metric: the data has no labels"),
    ]
    for arguments, message in wrong:
        assert main(["compare", *arguments]) == 1
        err = capsys.readouterr().err
        assert message in err and len(err.splitlines()) == 1
    for arguments, message in (
        (["a", "b", "--min_metric", "1"], "--min_metric: need --data"),
        (["a", "--data", "b"], "--data compares two models"),
    ):
        with pytest.raises(SystemExit) as end:
            main(["compare", *arguments])
        assert end.value.code == 2
        assert message in capsys.readouterr().err
