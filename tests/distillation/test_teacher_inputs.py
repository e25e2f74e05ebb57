"""Does a teacher of another family get its own inputs, or is the pair refused before training?"""

import json

import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    BertTokenizerFast,
    DistilBertTokenizerFast,
)

from helpers.command_lines import command
from helpers.models import SIZE, build_tiny_tokenizer
from run_qa import main
from sparsification.distillation.teacher import load_teacher
from sparsification.distillation.teacher_cache import TeacherCache, cache_key, settings
from sparsification.export.verify import OnnxModel
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.tasks.errors import UsageError
from sparsification.tasks.question_answering import pipeline as stages_qa
from sparsification.tasks.question_answering.features import prepare_train_features

DISTILL = "modifiers:\n  - !EpochRangeModifier {end_epoch: 1.0}\n  - !DistillationModifier {hardness: 1.0}\n"
WIDE = {"initializer_range": 0.5}  # so that every input matters to the answers of an untrained model
ENDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
# Family: its settings, and its tokenizer's class.
FAMILIES = {
    "bert": (SIZE | WIDE, BertTokenizerFast),
    "distilbert": ({"dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16} | WIDE, DistilBertTokenizerFast),
    # As one that was trained with WordPiece: the tokenizer makes types that the model has no row for.
    "roberta": (SIZE | WIDE | {"type_vocab_size": 1, "max_position_embeddings": 513}, BertTokenizerFast),
    "electra": (SIZE | WIDE | {"embedding_size": 16}, BertTokenizerFast),
}
PAIRS = [("distilbert", "bert"), ("bert", "distilbert"), ("bert", "roberta"), ("roberta", "bert"), ("electra", "bert")]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Save one model of each family, of one vocabulary."""
    folder, vocabulary = tmp_path_factory.mktemp("families"), build_tiny_tokenizer().get_vocab()
    for family, (sizes, tokenizer_class) in FAMILIES.items():
        config = AutoConfig.for_model(family, **sizes | ENDS | {"vocab_size": len(vocabulary)})
        torch.manual_seed(0)
        AutoModelForQuestionAnswering.from_config(config).save_pretrained(folder / family)
        tokenizer_class(vocab=vocabulary, model_max_length=128).save_pretrained(folder / family)
    return folder


@pytest.fixture(scope="module")
def alone(models, tiny_squad, tmp_path_factory):
    """What each model answers by itself."""
    found = {}
    for family in {teacher for _, teacher in PAIRS}:
        out = tmp_path_factory.mktemp("alone") / "out"
        metrics = main(command(models / family, tiny_squad, out, "--do_eval"))
        found[family] = (out / "eval_nbest_predictions.json").read_text(), metrics["eval_f1"]
    return found


def distill(student, teacher, data, folder, *flags):
    (folder / "kd.yaml").write_text(DISTILL)
    given = ["--do_train", "--do_eval", "--recipe", str(folder / "kd.yaml"), "--distill_teacher", str(teacher)]
    given += ["--teacher_cache", str(folder / "cache"), "--per_device_train_batch_size", "6", *flags]
    return main(command(student, data, folder / "out", *given))


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_teacher_answers_in_the_run_as_it_does_alone(student, teacher, models, alone, tiny_squad, tmp_path):
    metrics = distill(models / student, models / teacher, tiny_squad, tmp_path)
    # To the last digit of every logit.
    answers, f1 = alone[teacher]
    assert (tmp_path / "out" / "eval_teacher_nbest_predictions.json").read_text() == answers
    assert metrics["eval_teacher_f1"] == f1


def test_student_is_evaluated_and_exported_as_it_is_alone(models, tiny_squad, tmp_path):
    flags = ["--pad_to_max_length", "False"]
    out = tmp_path / "out"
    distill(
        models / "distilbert", models / "bert", tiny_squad, tmp_path, *flags, "--onnx_export_path", str(out / "onnx")
    )
    assert type(AutoTokenizer.from_pretrained(out)) is DistilBertTokenizerFast
    assert OnnxModel(out / "onnx" / "model.onnx").input_names == ["input_ids", "attention_mask"]
    for model, name in ((out, "eval"), (models / "bert", "eval_teacher")):
        main(command(model, tiny_squad, tmp_path / name, "--do_eval", *flags))
        expected = (tmp_path / name / "eval_nbest_predictions.json").read_text()
        assert (out / f"{name}_nbest_predictions.json").read_text() == expected


@pytest.mark.parametrize("flag", ["--bf16", "--bf16_full_eval"])
def test_teacher_answers_in_sixteen_bits_as_it_does_alone(flag, models, tiny_squad, tmp_path):
    distill(models / "distilbert", models / "bert", tiny_squad, tmp_path, flag)
    main(command(models / "bert", tiny_squad, tmp_path / "alone", "--do_eval", flag))
    expected = (tmp_path / "alone" / "eval_nbest_predictions.json").read_text()
    assert (tmp_path / "out" / "eval_teacher_nbest_predictions.json").read_text() == expected


@pytest.mark.parametrize(("student", "teacher"), PAIRS[:3])
def test_cache_holds_what_the_teacher_answers(student, teacher, models, tiny_squad, tmp_path):
    distill(models / student, models / teacher, tiny_squad, tmp_path)
    articles = json.loads((tiny_squad / "train.json").read_text())["data"]
    rows = [
        {"question": qa["question"], "context": paragraph["context"], "answers": {"text": [], "answer_start": []}}
        for article in articles
        for paragraph in article["paragraphs"]
        for qa in paragraph["qas"]
    ]
    tokenizer = AutoTokenizer.from_pretrained(models / teacher)
    examples = {name: [row[name] for row in rows] for name in rows[0]}
    features = prepare_train_features(examples, tokenizer, max_seq_length=64, doc_stride=16)
    names = [name for name in ("input_ids", "token_type_ids", "attention_mask") if name in features.column_names]
    if teacher == "roberta":
        names.remove("token_type_ids")
    model = AutoModelForQuestionAnswering.from_pretrained(models / teacher).eval()
    with torch.no_grad():
        outputs = model(**{name: torch.tensor(features[name].to_pylist()) for name in names})
    (kept,) = (tmp_path / "cache").glob("teacher-*")
    for name in ("start_logits", "end_logits"):
        stored = np.fromfile(kept / f"{name}.float32", np.float32).reshape(len(rows), 64)
        np.testing.assert_allclose(stored, outputs[name].numpy(), atol=1e-5)


def with_tokenizer(models, folder, **changes):
    """A copy of the BERT whose tokenizer is made otherwise."""
    AutoModelForQuestionAnswering.from_pretrained(models / "bert").save_pretrained(folder)
    vocabulary = build_tiny_tokenizer().get_vocab()
    BertTokenizerFast(**{"vocab": vocabulary, "model_max_length": 128} | changes).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_lower_case": False}, "makes other input_ids of one text than the student's, .*e.g. in lowercasing"),
        ({"pad_token": "[MASK]"}, "must have the same pad_token_id, got 4 and 0"),
        ({"cls_token": "[MASK]"}, "must have the same cls_token_id, got 4 and 2"),
        ({"padding_side": "left"}, "must have the same padding_side, got left and right"),
    ],
)
def test_teacher_that_reads_texts_otherwise_is_refused(changes, message, models, tiny_squad, tmp_path):
    teacher = with_tokenizer(models, tmp_path / "bert", **changes)
    with pytest.raises(ManagerError, match=message):
        distill(models / "distilbert", teacher, tiny_squad, tmp_path)
    assert not (tmp_path / "out").exists()


def test_teacher_with_too_few_positions_is_refused(models, tiny_squad, tmp_path):
    config = AutoConfig.from_pretrained(models / "bert")
    config.max_position_embeddings = 32
    AutoModelForQuestionAnswering.from_config(config).save_pretrained(tmp_path / "short")
    AutoTokenizer.from_pretrained(models / "bert").save_pretrained(tmp_path / "short")
    message = "short has 32 positions, features have 64 tokens: --max_seq_length 32 fits both"
    with pytest.raises(UsageError, match=message):
        distill(models / "distilbert", tmp_path / "short", tiny_squad, tmp_path)


def test_teacher_without_a_tokenizer_takes_the_students_where_that_makes_all_it_takes(models, tmp_path):
    AutoModelForQuestionAnswering.from_pretrained(models / "bert").save_pretrained(tmp_path)
    manager = ScheduledModifierManager.from_yaml(DISTILL)

    def load(family):
        student = AutoModelForQuestionAnswering.from_pretrained(models / family)
        tokenizer = AutoTokenizer.from_pretrained(models / family)
        recipe = manager.recipe.source if manager.distills else None
        return load_teacher(str(tmp_path), AutoModelForQuestionAnswering, student, tokenizer, recipe)

    assert load("bert").name_or_path == str(tmp_path)
    with pytest.raises(
        ManagerError, match="takes token_type_ids, which the student's DistilBertTokenizer does not make"
    ):
        load("distilbert")


def test_model_without_a_tokenizer_is_refused(models, tiny_squad, tmp_path, capsys):
    AutoModelForQuestionAnswering.from_pretrained(models / "bert").save_pretrained(tmp_path / "bare")
    with pytest.raises(UsageError, match="bare has no tokenizer: name the one that .* with --tokenizer_name"):
        main(command(tmp_path / "bare", tiny_squad, tmp_path / "out", "--do_eval"))
    tokenizer = ["--tokenizer_name", str(models / "bert")]
    assert main(command(tmp_path / "bare", tiny_squad, tmp_path / "out", "--do_eval", *tokenizer))["eval_samples"] == 6


def test_model_whose_tokenizer_makes_no_token_types_is_told(models, tiny_squad, tmp_path, caplog):
    stages_qa.logger.propagate = True
    warning = "takes token_type_ids, but its DistilBertTokenizer makes none"
    main(command(models / "distilbert", tiny_squad, tmp_path / "one", "--do_eval"))
    assert "token_type_ids" not in caplog.text
    tokenizer = ["--tokenizer_name", str(models / "distilbert")]
    main(command(models / "bert", tiny_squad, tmp_path / "two", "--do_eval", *tokenizer))
    assert warning in caplog.text


def test_caches_of_teachers_that_differ_in_their_configuration_alone_are_apart(models, tmp_path):
    teacher = AutoModelForQuestionAnswering.from_pretrained(models / "bert")
    teacher.save_pretrained(tmp_path)
    moved = AutoModelForQuestionAnswering.from_pretrained(tmp_path)
    assert cache_key(teacher, settings(teacher.config)) == cache_key(moved, settings(moved.config))
    other = AutoModelForQuestionAnswering.from_pretrained(models / "bert", hidden_act="relu")
    assert cache_key(teacher) == cache_key(other)
    assert cache_key(teacher, settings(teacher.config)) != cache_key(other, settings(other.config))


def test_a_row_is_kept_with_all_outputs_or_not_at_all(tmp_path):
    cache = TeacherCache(tmp_path, "key", num_rows=10, width=8)
    cache.put(torch.tensor([1]), {"logits": torch.randn(1, 5), "labels": torch.randn(1, 5, 3)})
    assert list(tmp_path.iterdir()) == []
