"""The scripts in examples/: each prunes a tiny model with a short recipe and exports what ONNX Runtime runs."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from datasets import Dataset, DatasetDict
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
)

from helpers import ROOT
from helpers.command_lines import FAST_EXPORT
from helpers.data import PLACES, tagged_words, write_tagged
from helpers.examples import load_example
from helpers.models import save_bert
from helpers.processes import run_script
from helpers.tiny_encoders import save_tiny_encoder
from sparsification.errors import SparsificationError
from sparsification.tasks.predict import load_predictor
from sparsification.tasks.token_classification.predictor import Words

RECIPE = """modifiers:
  - !EpochRangeModifier {end_epoch: 2.0}
  - !GMPruningModifier {params: ['re:.*layer.*dense.weight'], final_sparsity: 0.5, start_epoch: 0.0, end_epoch: 1.0}
"""
QUANTIZE = "  - !QuantizationModifier {start_epoch: 1.0, disable_quantization_observer_epoch: 1.5}\n"
DISTILL = "  - !DistillationModifier {hardness: 0.5, distill_output_keys: [logits]}\n"
TAGS = ["B-LOC", "B-WATER", "I-WATER", "O"]  # in the order of the names
ROWS = [(f"{city} lies beside the {water}.", country) for city, country, water, _ in PLACES[:2]] * 8
TAGGED = tagged_words(PLACES[:2]) * 8


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("classifier"), BertForSequenceClassification)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = dict(enumerate(TAGS))
    return save_bert(tmp_path_factory.mktemp("tagger"), BertForTokenClassification, id2label=labels)


@pytest.fixture(params=["csv", "json"])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Sixteen sentences; labels are words in the CSV file, numbers in the JSON lines."""
    path = tmp_path / f"data.{request.param}"
    with path.open("w", newline="") as file:
        if request.param == "csv":
            csv.writer(file).writerows([("sentence", "label"), *ROWS])
        else:
            file.writelines(json.dumps({"text": text, "label": len(label)}) + "\n" for text, label in ROWS)
    return path


@pytest.fixture(params=["csv", "json"])
def tagged_data(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Sixteen sentences with their tags: texts in the CSV file, lists in the JSON lines."""
    return write_tagged(tmp_path / f"tagged.{request.param}", TAGGED)


def dense_sparsities(folder: Path, kind: type = AutoModelForSequenceClassification) -> list[float]:
    model = kind.from_pretrained(folder)
    weights = [weight for name, weight in model.named_parameters() if ".layer." in name and "dense.weight" in name]
    assert len(weights) == 6
    return [float((weight == 0).float().mean()) for weight in weights]


def operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


def command(classifier: Path, data: Path, recipe: Path, out: Path) -> list[str]:
    files = ["--train_file", str(data), "--validation_file", str(data), "--recipe", str(recipe)]
    places = [
        "--model_name_or_path",
        str(classifier),
        "--output_dir",
        str(out),
        "--onnx_export_path",
        str(out / "onnx"),
    ]
    rest = "--do_train --do_eval --learning_rate 1e-3 --report_to none --use_cpu --save_strategy epoch".split()
    return files + places + rest


def run_from_an_empty_folder(example: str, model: Path, data: Path, recipe: Path, tmp_path: Path) -> Path:
    """Run an example in a process of its own, which leaves its working folder empty; return its output folder."""
    out, folder = tmp_path / "out", tmp_path / "empty"
    folder.mkdir()
    ((status, printed),) = run_script([ROOT / "examples" / f"{example}.py", *command(model, data, recipe, out)], folder)
    assert status == 0, printed
    assert not list(folder.iterdir())
    return out


def test_run_glue_prunes_and_exports_from_an_empty_folder(classifier, data, recipe, tmp_path):
    out = run_from_an_empty_folder("run_glue", classifier, data, recipe, tmp_path)
    assert dense_sparsities(out) == [0.5] * 6
    assert (out / "report.html").is_file()
    results = json.loads((out / "all_results.json").read_text())
    assert results["eval_accuracy"] >= 0.5
    assert results["eval_onnx_accuracy"] == results["eval_accuracy"]
    assert results["train_samples"] == results["eval_samples"] == len(ROWS)

    session = onnxruntime.InferenceSession(out / "onnx" / "model.onnx")
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert set(model.config.label2id) == ({"Norway", "Peru"} if data.suffix == ".csv" else {"4", "6"})
    batch = AutoTokenizer.from_pretrained(out)([text for text, _ in ROWS[:2]], return_tensors="pt", padding=True)
    (logits,) = session.run(["logits"], {item.name: batch[item.name].numpy() for item in session.get_inputs()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(**batch).logits.numpy(), atol=1e-5)


def test_run_glue_that_distills_and_quantizes_resumes_with_equal_weights_and_exports_int8(classifier, recipe, tmp_path):
    data = tmp_path / "data.csv"
    with data.open("w", newline="") as file:
        csv.writer(file).writerows([("sentence", "label"), *ROWS])
    run_glue = load_example("run_glue")
    out = tmp_path / "out"
    recipe.write_text(RECIPE + DISTILL + QUANTIZE)
    arguments = [*command(classifier, data, recipe, out), "--distill_teacher", str(classifier), *FAST_EXPORT]
    run_glue.main(arguments)
    whole = AutoModelForSequenceClassification.from_pretrained(out).state_dict()
    checkpoints = sorted(out.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    assert len(checkpoints) == 2
    for path in checkpoints[1].iterdir():
        path.unlink()
    checkpoints[1].rmdir()
    run_glue.main(arguments)
    resumed = AutoModelForSequenceClassification.from_pretrained(out).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert dense_sparsities(out) == [0.5] * 6
    assert (out / "quantization.safetensors").is_file()
    assert "QuantizeLinear" in operators(out / "onnx" / "model.onnx")


def test_run_glue_trains_a_reranker_on_pairs_and_predicts_scores(classifier, recipe, tmp_path):
    data = tmp_path / "pairs.parquet"
    pairs = [(f"Where is {city}?", text, float(city in text)) for text, _ in ROWS for city, *_ in PLACES[:2]]
    Dataset.from_dict(dict(zip(("question", "text", "label"), zip(*pairs, strict=True), strict=True))).to_parquet(data)
    recipe.write_text(RECIPE + DISTILL)
    out = tmp_path / "out"
    arguments = [*command(classifier, data, recipe, out), *FAST_EXPORT, "--distill_teacher", "self"]
    arguments += ["--ignore_mismatched_sizes", "--do_predict", "--test_file", str(data), "--max_predict_samples", "5"]
    results = load_example("run_glue").main([*arguments, "--evaluation_strategy", "epoch"])
    assert {"eval_mse", "eval_teacher_mse", "eval_pearson", "predict_mse"} <= results.keys()
    assert results["eval_onnx_mse"] == pytest.approx(results["eval_mse"], rel=1e-3)
    model = AutoModelForSequenceClassification.from_pretrained(out).eval()
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    header, *lines = (out / "predict_results.txt").read_text().splitlines()
    tokenizer = AutoTokenizer.from_pretrained(out)
    with torch.no_grad():
        batch = tokenizer(*map(list, zip(*[pair[:2] for pair in pairs[:5]], strict=True)), padding=True)
        expected = model(**batch.convert_to_tensors("pt")).logits[:, 0].tolist()
    assert header == "index\tprediction"
    assert [line.split("\t")[0] for line in lines] == list("01234")
    assert [float(line.split("\t")[1]) for line in lines] == pytest.approx(expected, abs=2e-3)
    (logits,) = onnx.load(out / "onnx" / "model.onnx").graph.output
    assert logits.type.tensor_type.shape.dim[1].dim_value == 1
    assert "pipeline_tag: text-classification" in (out / "README.md").read_text()


def test_run_glue_takes_the_recipes_for_any_encoder(classifier, data, tmp_path):
    recipe = ROOT / "recipes" / "prune80.md"
    arguments = [*command(classifier, data, recipe, tmp_path / "out"), *FAST_EXPORT, "--distill_teacher", "self"]
    results = load_example("run_glue").main([*arguments, "--recipe_args", "num_epochs=2"])
    assert dense_sparsities(tmp_path / "out") == pytest.approx([0.8] * 6, abs=0.01)
    assert {"eval_accuracy", "eval_teacher_accuracy", "eval_onnx_accuracy"} <= results.keys()


def test_run_glue_predicts_labels_in_the_order_of_the_data(classifier, tmp_path):
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    train.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS))
    texts = ["Lima " * length for length in (9, 1, 5, 3)]
    test.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    out = tmp_path / "out"
    flags = "--do_train --do_predict --learning_rate 1e-2 --max_steps 2 --use_cpu --save_strategy no --report_to none "
    flags += "--train_sampling_strategy group_by_length --per_device_eval_batch_size 2"
    load_example("run_glue").main(
        ["--model_name_or_path", str(classifier), "--train_file", str(train), "--test_file", str(test)]
        + ["--output_dir", str(out), *flags.split()]
    )
    model, tokenizer = (
        AutoModelForSequenceClassification.from_pretrained(out).eval(),
        AutoTokenizer.from_pretrained(out),
    )
    with torch.no_grad():
        batch = tokenizer(texts, padding=True, return_tensors="pt")
        expected = [model.config.id2label[number] for number in model(**batch).logits.argmax(1).tolist()]
    lines = (out / "predict_results.txt").read_text().splitlines()
    assert lines == ["index\tprediction", *(f"{index}\t{label}" for index, label in enumerate(expected))]
    assert json.loads((out / "predict_results.json").read_text())["predict_samples"] == 4


def test_run_glue_predicts_both_test_sets_of_mnli(classifier, tmp_path, monkeypatch):
    def split(size: int, labelled: bool) -> Dataset:
        labels = [index % 2 if labelled else -1 for index in range(size)]
        texts = {name: [text for text, _ in ROWS[:size]] for name in ("premise", "hypothesis")}
        return Dataset.from_dict(texts | {"label": labels})

    names = [f"{kind}_{genre}" for kind in ("validation", "test") for genre in ("matched", "mismatched")]
    sizes = dict(zip(names, (4, 6, 3, 5), strict=True))
    data = DatasetDict({name: split(size, "validation" in name) for name, size in sizes.items()})
    monkeypatch.setattr("sparsification.tasks.arguments.load_dataset", lambda *args, **kwargs: data)
    places = ["--model_name_or_path", str(classifier), "--output_dir", str(tmp_path)]
    metrics = load_example("run_glue").main([*places, *"--task_name mnli --do_eval --do_predict --use_cpu".split()])
    assert {"eval_accuracy", "eval_accuracy_mm"} <= metrics.keys()
    assert metrics["predict_samples"] == 3
    for name, size in (("mnli", 3), ("mnli-mm", 5)):
        assert len((tmp_path / f"predict_results_{name}.txt").read_text().splitlines()) == 1 + size


def test_run_glue_scores_a_model_that_also_returns_hidden_states(tmp_path):
    save_tiny_encoder("BART", tmp_path / "model", "ForSequenceClassification", num_labels=2)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS))
    places = ["--model_name_or_path", str(tmp_path / "model"), "--output_dir", str(tmp_path / "out")]
    metrics = load_example("run_glue").main([*places, "--validation_file", str(data), "--do_eval", "--use_cpu"])
    assert 0 <= metrics["eval_accuracy"] <= 1


def test_run_glue_refuses_unknown_tasks_and_flags_in_one_line(classifier, tmp_path):
    places = ["--model_name_or_path", str(classifier), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SparsificationError, match="--task_name sst: expected one of cola, mnli"):
        load_example("run_glue").main([*places, "--task_name", "sst"])
    with pytest.raises(SparsificationError, match="did you mean --max_seq_length"):
        load_example("run_glue").main([*places, "--max_sequ_length", "8"])


def test_run_glue_says_which_column_the_data_lacks(classifier, recipe, tmp_path):
    data = tmp_path / "data.csv"
    data.write_text("sentence,class\nOslo is a capital.,1\n")
    run_glue = load_example("run_glue")
    with pytest.raises(SparsificationError, match="the train data needs a column 'label', it has sentence, class"):
        run_glue.main(command(classifier, data, recipe, tmp_path / "out"))


def test_run_ner_prunes_and_exports_from_an_empty_folder(tagger, tagged_data, recipe, tmp_path):
    out = run_from_an_empty_folder("run_ner", tagger, tagged_data, recipe, tmp_path)
    assert dense_sparsities(out, AutoModelForTokenClassification) == [0.5] * 6
    assert (out / "report.html").is_file()
    results = json.loads((out / "all_results.json").read_text())
    assert results["eval_accuracy"] > 0.5
    for name in ("precision", "recall", "f1", "accuracy"):
        assert results[f"eval_onnx_{name}"] == pytest.approx(results[f"eval_{name}"], abs=1e-6)

    session = onnxruntime.InferenceSession(out / "onnx" / "model.onnx")
    model = AutoModelForTokenClassification.from_pretrained(out).eval()
    assert model.config.id2label == dict(enumerate(TAGS))
    batch = AutoTokenizer.from_pretrained(out)([words for words, _ in TAGGED[:2]], is_split_into_words=True)
    batch = {name: torch.tensor(rows[:1]) for name, rows in batch.items()}
    (logits,) = session.run(["logits"], {item.name: batch[item.name].numpy() for item in session.get_inputs()})
    with torch.no_grad():
        np.testing.assert_allclose(logits, model(**batch).logits.numpy(), atol=1e-5)


def test_run_ner_that_distills_with_a_cache_and_quantizes_resumes_with_equal_weights(tagger, recipe, tmp_path):
    data = write_tagged(tmp_path / "tagged.json", TAGGED)
    recipe.write_text(RECIPE + DISTILL + QUANTIZE)
    out, cache = tmp_path / "out", tmp_path / "cache"
    arguments = [*command(tagger, data, recipe, out), *FAST_EXPORT]
    arguments += ["--distill_teacher", str(tagger), "--teacher_cache", str(cache)]
    run_ner = load_example("run_ner")
    run_ner.main(arguments)
    assert len(list(cache.glob("teacher-*/logits.*.float32"))) == len(TAGS)
    whole = AutoModelForTokenClassification.from_pretrained(out).state_dict()
    shutil.rmtree(max(out.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2])))
    metrics = run_ner.main(arguments)
    resumed = AutoModelForTokenClassification.from_pretrained(out).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (out / "quantization.safetensors").is_file()
    assert "QuantizeLinear" in operators(out / "onnx" / "model.onnx")
    assert {"eval_teacher_f1", "eval_onnx_f1"} <= metrics.keys()


def test_run_ner_evaluates_a_saved_model_by_types_with_its_own_order_of_labels(tagger, tmp_path):
    data = write_tagged(tmp_path / "tagged.csv", TAGGED)
    places = ["--model_name_or_path", str(tagger), "--output_dir", str(tmp_path / "out")]
    rest = "--do_eval --do_predict --return_entity_level_metrics --label_all_tokens --max_eval_samples 4 --use_cpu"
    files = ["--validation_file", str(data), "--test_file", str(data)]
    metrics = load_example("run_ner").main([*places, *files, *rest.split()])
    lines = (tmp_path / "out" / "predictions.txt").read_text().splitlines()
    assert len(lines) == len(TAGGED) == metrics["predict_samples"]
    assert set(" ".join(lines).split()) <= set(TAGS)
    assert {"eval_f1", "eval_LOC_f1", "eval_WATER_recall"} <= metrics.keys()
    assert metrics["eval_LOC_number"] == metrics["eval_WATER_number"] == 4


def test_run_ner_says_which_column_or_data_is_missing(tagger, recipe, tmp_path):
    run_ner = load_example("run_ner")
    data = write_tagged(tmp_path / "tagged.json", TAGGED)
    arguments = command(tagger, data, recipe, tmp_path / "out")
    with pytest.raises(SparsificationError, match="needs a column 'pos' of tags, it has tokens, ner_tags"):
        run_ner.main([*arguments, "--label_column_name", "pos"])
    with pytest.raises(SparsificationError, match="no validation data: give --validation_file"):
        run_ner.main([*arguments[:2], *arguments[4:]])
    with pytest.raises(SparsificationError, match=r"words.xml: expected a file that ends in \.csv, \.json"):
        run_ner.main([*arguments, "--validation_file", "words.xml"])


def test_run_ner_says_that_a_family_has_no_such_model(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bart"}')
    data = write_tagged(tmp_path / "tagged.json", TAGGED)
    places = ["--model_name_or_path", str(tmp_path), "--validation_file", str(data)]
    with pytest.raises(SparsificationError, match="Transformers has no AutoModelForTokenClassification of the type"):
        load_example("run_ner").main([*places, "--output_dir", str(tmp_path / "out"), "--do_eval", "--use_cpu"])


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bert(tmp_path_factory.mktemp("encoder"), BertModel)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{city} lies beside the {water}.\n\n" for city, _, water, _ in PLACES))
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """A file of pairs: a question, and the text that answers it."""
    path = tmp_path / "questions.csv"
    with path.open("w", newline="") as file:
        rows = [(f"Where is {city}?", f"{city} lies beside the {water}.") for city, _, water, _ in PLACES]
        csv.writer(file).writerows([("anchor", "positive"), *rows])
    return path


def embeddings(folder: Path, texts: list[str]) -> np.ndarray:
    """Mean of the token embeddings of an exported model, with length 1."""
    batch = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="np")
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    (hidden,) = session.run(None, {item.name: batch[item.name] for item in session.get_inputs()})
    mask = batch["attention_mask"][:, :, None]
    pooled = (hidden * mask).sum(1) / mask.sum(1)
    return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)


def test_run_embedding_prunes_in_one_shot_and_scores_retrieval_in_onnx_runtime(encoder, texts, questions, tmp_path):
    recipe, out = ROOT / "recipes" / "one-shot_reconstruct50.md", tmp_path / "out"
    places = ["--model_name_or_path", str(encoder), "--output_dir", str(out), "--onnx_export_path", str(out / "onnx")]
    files = ["--train_file", str(texts), "--retrieval_file", str(questions), "--recipe", str(recipe)]
    flags = "--one_shot --do_eval --use_cpu --report_to none --recipe_args num_samples=8".split()
    results = load_example("run_embedding").main([*places, *files, *flags, *FAST_EXPORT])
    assert results["eval_sparsity"] == pytest.approx(0.5, abs=0.01)
    assert results["eval_teacher_cosine"] == pytest.approx(1.0)
    assert 0.5 < results["eval_cosine"] < 1.0
    for name in ("cosine", "mrr_at_10", "recall_at_10"):
        assert results[f"eval_onnx_{name}"] == pytest.approx(results[f"eval_{name}"], abs=1e-4)

    # The same scores from the exported file alone.
    rows = list(csv.DictReader(questions.open()))
    queries, found = (embeddings(out / "onnx", [row[name] for row in rows]) for name in ("anchor", "positive"))
    own = (queries * found).sum(1)
    ranks = np.array(
        [
            1 + len({row["positive"] for row, score in zip(rows, found @ query, strict=True) if score > best})
            for query, best in zip(queries, own + 1e-6, strict=True)
        ]
    )
    assert results["eval_mrr_at_10"] == pytest.approx(np.where(ranks <= 10, 1 / ranks, 0).mean(), abs=1e-4)
    (output,) = onnx.load(out / "onnx" / "model.onnx").graph.output
    assert output.name == "last_hidden_state"
    for folder in (out, out / "onnx"):
        kinds = [step["type"].split(".")[-1] for step in json.loads((folder / "modules.json").read_text())]
        assert kinds == ["Transformer", "Pooling", "Normalize"]
        assert json.loads((folder / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"]
    assert "pipeline_tag: sentence-similarity" in (out / "README.md").read_text()


def test_run_embedding_learns_pairs_and_layers_and_resumes_with_equal_weights(
    encoder, questions, recipe, tmp_path, caplog
):
    options = "student_layer_names: [__ENCODER__], ignore_padding: true, cache_hidden_states: true"
    layers = f"  - !PerLayerDistillationModifier {{gain: 0.5, {options}}}\n"
    recipe.write_text(RECIPE + layers + QUANTIZE)
    out = tmp_path / "out"
    arguments = [*command(encoder, questions, recipe, out), *FAST_EXPORT, "--cache_dir", str(tmp_path / "cache")]
    arguments += ["--distill_teacher", str(encoder), "--per_device_train_batch_size", "4"]
    run_embedding = load_example("run_embedding")
    metrics = run_embedding.main(arguments)
    assert {"eval_cosine", "eval_onnx_cosine", "eval_teacher_cosine", "train_loss"} <= metrics.keys()
    assert "hidden states are not kept, and the teacher runs for every batch: a row of" in caplog.text
    whole = AutoModel.from_pretrained(out).state_dict()
    assert dense_sparsities(out, AutoModel) == [0.5] * 6
    shutil.rmtree(max(out.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2])))
    run_embedding.main(arguments)
    resumed = AutoModel.from_pretrained(out).state_dict()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert "QuantizeLinear" in operators(out / "onnx" / "model.onnx")


def test_run_embedding_comes_closer_to_its_teacher_without_labels(encoder, texts, tmp_path):
    teacher = save_bert(tmp_path / "teacher", BertModel, initializer_range=0.1)
    places = ["--model_name_or_path", str(encoder), "--distill_teacher", str(teacher), "--validation_file", str(texts)]
    before, after = (
        load_example("run_embedding").main(
            [*places, "--output_dir", str(tmp_path / name), "--do_eval", "--use_cpu", *flags.split()]
        )["eval_cosine"]
        for name, flags in (
            ("before", ""),
            ("after", f"--do_train --train_file {texts} --learning_rate 1e-3 --num_train_epochs 20 --save_strategy no"),
        )
    )
    assert after > before + 0.05


def test_run_embedding_uses_gradients_of_its_own_loss(encoder, texts, tmp_path):
    recipe = tmp_path / "obs.yaml"
    recipe.write_text(
        "modifiers:\n  - !EpochRangeModifier {end_epoch: 1.0}\n  - !OBSPruningModifier {params: __ENCODER__, "
        "init_sparsity: 0.5, final_sparsity: 0.5, start_epoch: 0.0, end_epoch: 1.0, num_grads: 8}\n"
    )
    arguments = command(encoder, texts, recipe, tmp_path / "out")
    arguments = arguments[: arguments.index("--onnx_export_path")] + arguments[arguments.index("--do_train") :]
    load_example("run_embedding").main(arguments)
    assert np.mean(dense_sparsities(tmp_path / "out", AutoModel)) == pytest.approx(0.5, abs=0.01)


def test_run_embedding_says_what_is_wrong(encoder, texts, questions, tmp_path):
    run_embedding = load_example("run_embedding")
    places = ["--model_name_or_path", str(encoder), "--output_dir", str(tmp_path / "out"), "--do_eval", "--use_cpu"]
    with pytest.raises(SparsificationError, match="no data: give --dataset_name"):
        run_embedding.main(places)
    with pytest.raises(SparsificationError, match=r"--ranking_share must be in \[0, 1\], got 2"):
        run_embedding.main([*places, "--train_file", str(questions), "--ranking_share", "2"])
    with pytest.raises(SparsificationError, match="expected 2 columns of texts, there are text"):
        run_embedding.main([*places, "--retrieval_file", str(texts)])
    with pytest.raises(SparsificationError, match="embeddings need a teacher"):
        run_embedding.main([*places, "--validation_file", str(texts), "--distill_teacher", "disable"])
    with pytest.raises(SparsificationError, match="use the command 'sparsification predict'"):
        run_embedding.main([*places, "--test_file", str(texts), "--do_predict"])


def lines_of(example: str, out: Path) -> list[str]:
    """The lines of a run's file of predictions, as the saved model predicts them."""
    predictor = load_predictor(out)
    if example == "run_glue":
        found = predictor.predict([(text,) for text, _ in ROWS])
        return ["index\tprediction", *(f"{index}\t{one['label']}" for index, one in enumerate(found))]
    return [" ".join(one["tags"]) for one in predictor.predict([Words(words) for words, _ in TAGGED])]


@pytest.mark.parametrize(
    ("example", "model", "auto_class"),
    [
        ("run_glue", "classifier", AutoModelForSequenceClassification),
        ("run_ner", "tagger", AutoModelForTokenClassification),
        ("run_embedding", "encoder", AutoModel),
    ],
)
def test_two_processes_prune_with_a_teacher_export_and_predict_in_order(
    example, model, auto_class, recipe, texts, tmp_path, request
):
    rows = tmp_path / "rows.csv"
    with rows.open("w", newline="") as file:
        csv.writer(file).writerows([("sentence", "label"), *ROWS])
    words = write_tagged(tmp_path / "words.json", TAGGED)
    data, metric = {
        "run_glue": (rows, "accuracy"),
        "run_ner": (words, "accuracy"),
        "run_embedding": (texts, "cosine"),
    }[example]
    out = tmp_path / "out"
    arguments = [*command(request.getfixturevalue(model), data, recipe, out), *FAST_EXPORT, "--distill_teacher", "self"]
    if example != "run_embedding":  # which distills by itself, and predicts no lines
        recipe.write_text(RECIPE + DISTILL)
        arguments += ["--do_predict", "--test_file", str(data)]
    ends = run_script([ROOT / "examples" / f"{example}.py", *arguments], tmp_path, processes=2)
    assert not any(status for status, _ in ends), "".join(printed for _, printed in ends)[-5000:]
    assert dense_sparsities(out, auto_class) == [0.5] * 6
    results = json.loads((out / "all_results.json").read_text())
    assert results[f"eval_onnx_{metric}"] == pytest.approx(results[f"eval_{metric}"], abs=1e-5)
    assert results["eval_samples"] == (len(PLACES) if example == "run_embedding" else len(ROWS))
    for file in out.glob("predict*.txt"):
        assert file.read_text().splitlines() == lines_of(example, out)
    assert len(list(out.glob("predict*.txt"))) == (example != "run_embedding")


@pytest.mark.parametrize("extra", ["", QUANTIZE], ids=["fp32", "int8"])
def test_plain_loop_prunes_and_exports(recipe, tmp_path, capsys, extra):
    recipe.write_text(RECIPE + extra)
    load_example("plain_loop").main(["--recipe", str(recipe), "--output_dir", str(tmp_path / "out")])
    assert "% of the encoder's weights are zero" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx")
    assert ("QuantizeLinear" in operators(tmp_path / "out" / "model.onnx")) == bool(extra)
    ids = np.arange(1, 13)[None]
    (logits,) = session.run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert logits.shape == (1, 2)
    assert np.isfinite(logits).all()
