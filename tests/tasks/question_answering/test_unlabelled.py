"""Text without labels: its files become questions, and a run distills on them beside labelled ones or alone."""

import json
import logging
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from helpers.data import PLACES, SENTENCES
from helpers.recipes import DISTILL, PRUNE_BY_CURVATURE
from run_qa import main
from sparsification.tasks.errors import DataError, UsageError
from sparsification.tasks.question_answering.unlabelled import load_distill_file

PARAGRAPHS = [SENTENCES.format(city=a, country=b, water=c, people=d) for a, b, c, d in PLACES]
OWN = {"question": "Where is Oslo?", "context": PARAGRAPHS[0]}
FULL = DISTILL.replace("0.7", "1.0")


def rows_of(path, seed: int = 42, per_paragraph: int = 2) -> list[dict]:
    return load_distill_file(str(path), seed, per_paragraph).to_list()


def questions_of(path) -> list[tuple[str, str]]:
    return [(row["context"], row["question"]) for row in rows_of(path)]


@pytest.fixture
def text(tmp_path):
    """A file with a paragraph on each line."""
    path = tmp_path / "text.txt"
    path.write_text("\n".join(PARAGRAPHS) + "\n")
    return path


def test_every_kind_of_file_gives_the_same_questions(text, tmp_path):
    records = [{"context": paragraph} for paragraph in PARAGRAPHS]
    (tmp_path / "blank.txt").write_text("\ufeff\n" + " \n \n".join(p.replace(" ", "\n", 3) for p in PARAGRAPHS))
    (tmp_path / "flat.json").write_text(json.dumps(records))
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, records)))
    (tmp_path / "nested.json").write_text(json.dumps({"data": [{"title": "", "paragraphs": records}]}))
    (tmp_path / "empty.json").write_text(json.dumps({"data": [{"paragraphs": [r | {"qas": []} for r in records]}]}))
    (tmp_path / "a.csv").write_text("context\n" + "".join(f'"{paragraph}"\n' for paragraph in PARAGRAPHS))
    (tmp_path / "b.csv").write_text("n;context\n" + "".join(f"1;{paragraph}\n" for paragraph in PARAGRAPHS))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    expected = questions_of(text)
    assert len(expected) == 16
    assert {context for context, _ in expected} == set(PARAGRAPHS)
    for path in tmp_path.iterdir():
        assert questions_of(path) == expected, path
    (tmp_path / "one.jsonl").write_text(json.dumps(records[0]))
    assert questions_of(tmp_path / "one.jsonl") == expected[:2]


def test_spans_are_the_labels_and_the_seed_chooses_them(text):
    rows = rows_of(text)
    for row in rows:
        (answer,), (start,) = row["answers"]["text"], row["answers"]["answer_start"]
        assert row["context"].startswith(answer, start)
        assert answer not in row["question"]
    assert rows == rows_of(text)
    assert rows != rows_of(text, seed=1)
    assert len(rows_of(text, per_paragraph=1)) == 8


def test_added_or_repeated_paragraph_changes_no_other_question(text):
    before = questions_of(text)
    text.write_text("\n".join([PARAGRAPHS[0], "Nothing to ask here.", *PARAGRAPHS, "Rome was the capital of Italy."]))
    assert questions_of(text)[: len(before)] == before
    assert len(questions_of(text)) == len(before) + 1


def test_record_with_a_question_keeps_it_and_perhaps_its_answer(tmp_path):
    answers = {"text": ["Norway"], "answer_start": [23]}
    (tmp_path / "a.json").write_text(json.dumps([OWN, OWN | {"answers": answers}, {"context": PARAGRAPHS[0]}]))
    rows = rows_of(tmp_path / "a.json")
    assert [row["question"] for row in rows[:2]] == [OWN["question"]] * 2
    assert [row["answers"]["text"] for row in rows[:2]] == [[], ["Norway"]]
    assert len(rows) == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"Nothing here.\nNor here.\n", "a.txt: no question could be made from its 2 paragraphs"),
        ("a.txt", b"\xff", "a.txt: not UTF-8 text"),
        ("a.json", b'[{"text": "x"}]', "a.json, record 1: no column 'context'"),
        ("a.json", b'[{"context": 3}]', "a.json, record 1: 'context' must be a text, got 3"),
        ("a.json", b'{"data": [{"paragraphs": [{"qas": []}]}]}', "is not SQuAD's paragraphs"),
    ],
)
def test_wrong_file_is_refused_with_place_and_reason(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        rows_of(tmp_path / name)


def test_missing_file_is_named():
    with pytest.raises(DataError, match="--distill_file gone.txt: no such file"):
        rows_of("gone.txt")


@pytest.fixture
def run(tiny_model_dir, tiny_squad, tmp_path):
    """Distill on a file, in a folder of that name."""
    labelled = f"--train_file {tiny_squad}/train.json"
    (tmp_path / "recipe.yaml").write_text(FULL)

    def run(name: str, file, *flags: str, data: str = labelled) -> dict[str, float]:
        base = f"--model_name_or_path {tiny_model_dir} --output_dir {tmp_path / name} --do_train {data}"
        small = "--use_cpu --max_seq_length 64 --doc_stride 16 --report_to none --per_device_train_batch_size 6"
        teacher = f"--recipe {tmp_path}/recipe.yaml --distill_teacher self --distill_file {file} --num_train_epochs 2"
        cache = f"--teacher_cache {tmp_path}/cache --save_strategy epoch --learning_rate 1e-3"
        return main([*f"{base} {small} {teacher} {cache}".split(), *flags])

    return run


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_questions_come_in_addition_to_labelled_ones_and_evaluation_stays(run, text, tiny_squad, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        metrics = run(
            "out", text, "--do_eval", "--max_train_samples", "5", "--validation_file", f"{tiny_squad}/validation.json"
        )
    assert (metrics["train_samples"], metrics["eval_samples"]) == (5 + 16, 6)
    told = "text.txt: 16 features of 16 questions on 8 paragraphs, beside 5 features of labelled questions"
    assert caplog.text.count(told) == 1
    (cache,) = (tmp_path / "cache").iterdir()
    assert (cache / "index.uint32").stat().st_size == (5 + 16) * 2 * 4  # each feature has its row
    assert all(torch.frombuffer(bytearray((cache / "index.uint32").read_bytes()), dtype=torch.int32) != 0)


def test_run_on_text_alone_resumes_exactly_and_other_text_has_another_cache(run, text, tmp_path):
    assert run("whole", text, data="")["train_samples"] == 16
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for path in (tmp_path / "parts").iterdir():
        if path.name != "checkpoint-3":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    run("parts", text, "--skip_trial", data="")
    assert_equal(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    text.write_text(text.read_text().replace("Oslo", "Bergen"))
    run("other", text, "--skip_trial", data="")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_labels_have_no_effect_with_hardness_1_and_missing_ones_need_it(run, tmp_path):
    questions = [OWN | {"question": f"Where is place {number}?"} for number in range(6)]
    (tmp_path / "bare.json").write_text(json.dumps(questions))
    answers = {"text": ["Norway"], "answer_start": [23]}
    (tmp_path / "labelled.json").write_text(json.dumps([question | {"answers": answers} for question in questions]))
    run("bare", tmp_path / "bare.json", "--skip_trial")
    run("labelled", tmp_path / "labelled.json", "--skip_trial")
    assert_equal(weights(tmp_path / "bare"), weights(tmp_path / "labelled"))
    softer = (DISTILL, FULL + "    end_epoch: 1.0\n", FULL + "    start_epoch: 0.5\n", PRUNE_BY_CURVATURE + FULL)
    for number, recipe in enumerate(softer):
        (tmp_path / "recipe.yaml").write_text(recipe)
        with pytest.raises(
            UsageError, match=r"bare.json: 6 of 6 questions have no answer, and .*recipe.yaml uses labels"
        ):
            run(f"refused-{number}", tmp_path / "bare.json")
    (tmp_path / "recipe.yaml").write_text(DISTILL)
    run("softer", tmp_path / "labelled.json", "--skip_trial")
    assert not torch.equal(*(weights(tmp_path / name)["qa_outputs.weight"] for name in ("softer", "labelled")))


def test_question_without_room_for_its_context_is_left_out(run, text, tmp_path, caplog):
    long = "It is said that " + "very " * 30 + "old people live in Norway."
    text.write_text("\n".join([*PARAGRAPHS, long]))
    with caplog.at_level(logging.INFO):
        assert run("some", text, data="")["train_samples"] == 16
    assert caplog.text.count("1 of 17 questions have more than 44 tokens and are left out") == 1
    text.write_text(long)
    with pytest.raises(
        DataError, match="have more than 44 tokens, which --max_seq_length and --doc_stride leave for a"
    ):
        run("none", text, data="")
