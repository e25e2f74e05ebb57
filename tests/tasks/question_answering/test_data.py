"""Does every kind of file become the same table, and is every wrong one refused with what is wrong?"""

import csv
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from sparsification.tasks.errors import DataError
from sparsification.tasks.question_answering.data import load_dataset_folder, load_qa_dataset, load_squad_files
from sparsification.tasks.question_answering.data_checks import check_answers, check_ids
from sparsification.tasks.question_answering.records import QA_FEATURES


@pytest.fixture
def nested(tiny_squad_v2: Path) -> Path:
    """SQuAD 2.0's own kind of file."""
    return tiny_squad_v2 / "validation.json"


def rows_of(path: Path | list[Path], split: str = "validation") -> list[dict]:
    """The table that a file becomes."""
    return load_squad_files({split: path})[split].to_list()


def write_csv(path: Path, records: list[dict], how: type(json.dumps)) -> Path:
    """Write a CSV file whose answers are texts."""
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(records[0]))
        writer.writeheader()
        writer.writerows(record | {"answers": how(record["answers"])} for record in records)
    return path


def test_nested_file_gives_each_question_with_its_context(nested):
    rows = rows_of(nested)
    raw = json.loads(nested.read_text())
    assert len(rows) == 8
    assert rows[0] == {
        "id": "riga-capital",
        "title": "Riga",
        "context": raw["data"][0]["paragraphs"][0]["context"],
        "question": "What is the capital of Latvia?",
        "answers": {"text": ["Riga"], "answer_start": [0]},
    }
    assert rows[3]["answers"] == {"text": [], "answer_start": []}


def test_every_kind_of_file_gives_the_same_table(nested, tmp_path):
    rows = rows_of(nested)
    flat = tmp_path / "flat.json"
    flat.write_text(json.dumps({"version": "x", "data": rows}))
    bare = tmp_path / "bare.json"
    bare.write_text(json.dumps(rows))
    lines = tmp_path / "lines.jsonl"
    lines.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    named_json = tmp_path / "lines.json"
    named_json.write_text("\ufeff" + lines.read_text(), encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "table.parquet")
    old_answers = [
        row
        | {
            "answers": [
                dict(zip(("text", "answer_start"), a, strict=True)) for a in zip(*row["answers"].values(), strict=True)
            ]
        }
        for row in rows
    ]
    listed = tmp_path / "listed.json"
    listed.write_text(json.dumps({"data": old_answers}))
    files = [
        *(flat, bare, lines, named_json, listed, tmp_path / "table.parquet"),
        write_csv(tmp_path / "json.csv", rows, json.dumps),
        write_csv(tmp_path / "python.csv", rows, repr),
    ]
    for file in files:
        assert rows_of(file) == rows, file
    assert load_squad_files({"train": nested})["train"].features == QA_FEATURES


def test_parts_follow_one_another(nested, tmp_path):
    rows = rows_of(nested)
    for part, some in (("00000", rows[:5]), ("00001", rows[5:])):
        pq.write_table(pa.Table.from_pylist(some), tmp_path / f"validation-{part}-of-00002.parquet")
    assert load_dataset_folder(tmp_path)["validation"].to_list() == rows


def test_edited_file_is_read_again(nested, tmp_path):
    path = tmp_path / "data.json"
    path.write_text(nested.read_text())
    assert rows_of(path)[0]["title"] == "Riga"
    stamp = path.stat()
    path.write_text(nested.read_text().replace("Riga", "Rige"))
    os.utime(path, (stamp.st_atime, stamp.st_mtime))
    assert rows_of(path)[0]["title"] == "Rige"


def test_record_without_id_or_title_gets_its_number(tmp_path):
    path = tmp_path / "data.jsonl"
    answers = {"text": ["x"], "answer_start": [0]}
    path.write_text("\n".join(json.dumps({"question": "q", "context": "x", "answers": answers}) for _ in range(2)))
    assert [(row["id"], row["title"]) for row in rows_of(path)] == [("0", ""), ("1", "")]


def test_test_data_needs_no_answers(tmp_path):
    path = tmp_path / "data.json"
    path.write_text(json.dumps([{"id": 7, "question": "q", "context": "x"}]))
    assert rows_of(path, "test")[0] == {
        **{"id": "7", "title": "", "context": "x", "question": "q"},
        "answers": {"text": [], "answer_start": []},
    }


def test_impossible_question_loses_its_plausible_answers(tmp_path):
    path = tmp_path / "data.json"
    record = {"question": "q", "context": "x", "is_impossible": True, "answers": [{"text": "x", "answer_start": 0}]}
    path.write_text(json.dumps([record]))
    assert rows_of(path)[0]["answers"]["text"] == []


def test_folder_is_searched_and_saved_data_sets_are_known(nested, tiny_squad, tmp_path):
    assert {split: len(data) for split, data in load_qa_dataset(str(tiny_squad)).items()} == {
        "train": 18,
        "validation": 6,
    }
    rows = rows_of(nested)
    for place, name in (("data", "dev-v1.1.json"), ("plain_text", "valid.json")):
        folder = tmp_path / place
        (folder / place).mkdir(parents=True)
        (folder / "README.md").write_text("x")
        (folder / place / name).write_text(nested.read_text())
        assert load_qa_dataset(str(folder))["validation"].to_list() == rows
    both = tmp_path / "configs"
    for config in ("one", "two"):
        (both / config).mkdir(parents=True)
        (both / config / "test.json").write_text(nested.read_text())
    assert list(load_qa_dataset(str(both), "two")) == ["test"]
    with pytest.raises(DataError, match="no train"):
        load_qa_dataset(str(both))
    DatasetDict(validation=Dataset.from_list(rows)).save_to_disk(tmp_path / "saved")
    assert load_qa_dataset(str(tmp_path / "saved"))["validation"].to_list() == rows
    foreign = [{"question": "q", "context": "x", "answers": [{"text": "x", "answer_start": 0}]}]
    Dataset.from_list(foreign).save_to_disk(tmp_path / "foreign")
    assert load_qa_dataset(str(tmp_path / "foreign"))["train"].to_list()[0]["answers"]["text"] == ["x"]


def test_file_takes_the_place_of_a_split(nested, tiny_squad):
    loaded = load_qa_dataset(str(tiny_squad), data_files={"validation": str(nested)})
    assert {split: len(data) for split, data in loaded.items()} == {"train": 18, "validation": 8}


def test_folder_with_two_candidates_asks_which(nested, tmp_path):
    for name in ("dev-v1.1.json", "dev-v2.0.json"):
        (tmp_path / name).write_text(nested.read_text())
    with pytest.raises(DataError, match=r"ambiguous, there is dev-v1.1.json or dev-v2.0.json; .*--validation_file"):
        load_qa_dataset(str(tmp_path))


def test_unknown_name_says_what_was_tried():
    with pytest.raises(DataError, match="no-such-set: neither a local folder nor a data set"):
        load_qa_dataset("no-such-set")


GOOD = {"id": "1", "question": "q", "context": "x y", "answers": {"text": ["y"], "answer_start": [2]}}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "", "a.json: the file is empty"),
        ("a.json", "{]", "a.json, line 1: not JSON"),
        ("a.jsonl", json.dumps(GOOD) + "\n{]\n", "a.jsonl, line 2: not JSON"),
        ("a.json", "[1]", r"a.json: expected SQuAD's .* found \[1\]"),
        ("a.json", '{"date": []}', "a.json: expected SQuAD's"),
        ("a.json", '{"data": []}', "a.json: no questions in it"),
        ("a.json", json.dumps({"data": [{"title": "t", "paragraphs": [{"qas": [{}]}]}]}), "article 't'.*'context'"),
        (
            "a.json",
            json.dumps([{"id": 1, "context": "x"}]),
            "record 1: no column 'question'; there are 'id', 'context'",
        ),
        ("a.json", json.dumps([GOOD, GOOD | {"context": 3}]), "record 2: 'context' must be a text, got 3"),
        ("a.json", json.dumps([{"question": "q", "context": "x"}]), "record 1: no column 'answers'"),
        ("a.json", json.dumps([GOOD | {"answers": ["x"]}]), r"record 1: 'answers' must be .* got \['x'\]"),
        (
            "a.json",
            json.dumps([GOOD | {"answers": {"text": ["x"], "answer_start": []}}]),
            "with one number >= 0 for each",
        ),
        (
            "a.json",
            json.dumps([GOOD | {"answers": {"text": ["x"], "answer_start": [-1]}}]),
            "with one number >= 0 for each",
        ),
        ("a.csv", "question,context\nq,x\n", "record 1: no column 'answers'"),
        ("a.csv", "question,context,answers\nq,x,array([1])\n", "neither JSON nor a Python literal"),
        ("a.csv", "question,context,answers\n", "a.csv: no questions in it"),
        ("a.parquet", "PAR0", "a.parquet: not a parquet file"),
        ("a.txt", "x", "a.txt: cannot read '.txt', only .csv, .json, .jsonl, .parquet"),
    ],
)
def test_wrong_file_is_refused_with_place_and_reason(tmp_path, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=message):
        load_squad_files({"train": tmp_path / name})


def test_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone.json: no such file \(the train data\)"):
        load_squad_files({"train": tmp_path / "gone.json"})


def test_text_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b'{"data": "\xff"}')
    with pytest.raises(DataError, match="not UTF-8 text"):
        load_squad_files({"train": tmp_path / "a.json"})


def test_answers_run_no_code(tmp_path):
    (tmp_path / "a.csv").write_text(f"question,context,answers\nq,x,\"open('{tmp_path}/made', 'w')\"\n")
    with pytest.raises(DataError, match="neither JSON nor a Python literal"):
        load_squad_files({"train": tmp_path / "a.csv"})
    assert not (tmp_path / "made").exists()


def test_misplaced_answers_are_counted(tmp_path, caplog):
    (tmp_path / "a.json").write_text(json.dumps([GOOD, GOOD | {"answers": {"text": ["y"], "answer_start": [0]}}]))
    load_squad_files({"train": tmp_path / "a.json"})
    assert "in 1 of 2 records the answer is not at its answer_start" in caplog.text


def test_questions_that_share_an_id_are_refused():
    check_ids(Dataset.from_list([{"id": "a"}, {"id": "b"}]))
    with pytest.raises(DataError, match="two questions have the id 'a'"):
        check_ids(Dataset.from_list([{"id": "a"}, {"id": "b"}, {"id": "a"}]))


def test_unanswerable_training_questions_are_refused_or_reported(caplog):
    none = {"answers": {"text": [], "answer_start": []}}
    with pytest.raises(DataError, match="none of the 2 training questions has an answer"):
        check_answers(Dataset.from_list([none, none], features=None), version_2_with_negative=True)
    some = Dataset.from_list([GOOD, GOOD | none])
    check_answers(some, version_2_with_negative=True)
    assert caplog.text == ""
    check_answers(some, version_2_with_negative=False)
    assert "1 of 2 training questions have no answer; --version_2_with_negative" in caplog.text


# What JSON and CSV leave as it is, and splitlines takes for the end of a line.
SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_json_lines_end_where_json_lets_them(end, tmp_path):
    rows = [GOOD | {"id": str(number), "title": "", "context": f"x y {SEPARATORS[-3:]} z"} for number in range(3)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    assert len(lines[0].splitlines()) == 4
    (tmp_path / "a.jsonl").write_text(end.join(lines) + end, encoding="utf-8", newline="")
    assert rows_of(tmp_path / "a.jsonl") == [json.loads(line) for line in lines] == rows


def test_csv_fields_keep_every_separator_of_lines(tmp_path):
    rows = [GOOD | {"title": "", "context": f"x y {SEPARATORS}\n z"}] * 2
    assert rows_of(write_csv(tmp_path / "a.csv", rows, json.dumps)) == rows


def test_single_json_line_may_be_an_article(nested, tmp_path):
    article = json.loads(nested.read_text())["data"][0]
    (tmp_path / "a.jsonl").write_text(json.dumps(article) + "\n")
    assert rows_of(tmp_path / "a.jsonl") == rows_of(nested)[:4]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_columns_may_be_separated_otherwise_and_answers_stand_in_two(separator, nested, tmp_path):
    rows = rows_of(nested)
    for how in (json.dumps, repr):
        with open(tmp_path / "a.csv", "w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file, delimiter=separator)
            writer.writerow([*rows[0]][:4] + ["answers.text", "answers.answer_start"])
            writer.writerows([*[*row.values()][:4], *map(how, row["answers"].values())] for row in rows)
        assert rows_of(tmp_path / "a.csv") == rows


@pytest.mark.parametrize(
    ("text", "start", "expected"),
    [
        ("y", "2", {"text": ["y"], "answer_start": [2]}),
        ("[1]", "2", {"text": ["[1]"], "answer_start": [2]}),  # the answer itself, since its place is no list
        ('["[1]"]', "[2]", {"text": ["[1]"], "answer_start": [2]}),
        ("", "", {"text": [], "answer_start": []}),
        ("[]", "[]", {"text": [], "answer_start": []}),
    ],
)
def test_answer_of_two_csv_columns_is_a_text_or_a_list_of_texts(text, start, expected, tmp_path):
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [["question", "context", "answers.text", "answers.answer_start"], ["q", "x [1]", text, start]]
        )
    assert rows_of(tmp_path / "a.csv")[0]["answers"] == expected


def test_flattened_data_set_is_read_from_json_lines_and_parquet(nested, tmp_path):
    rows = rows_of(nested)
    flat = load_squad_files({"train": nested})["train"].flatten()
    flat.to_json(tmp_path / "a.jsonl")
    flat.to_parquet(tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        assert rows_of(tmp_path / name) == rows


def test_array_of_numpy_in_a_csv_file_is_refused_with_what_to_write(tmp_path):
    table = Dataset.from_list([GOOD | {"answers": {"text": ["x", "y"], "answer_start": [0, 2]}}])
    for data, column in ((table, "answers"), (table.flatten(), "answers.answer_start")):
        data.to_csv(tmp_path / "a.csv")
        with pytest.raises(DataError, match=rf"'{column}' is neither JSON .*to_json instead of to_csv"):
            rows_of(tmp_path / "a.csv")


@pytest.mark.parametrize("row", ['1,q,x, y,"{}"', "1,q", '1,q,"x\n'])
def test_csv_row_that_does_not_fit_its_header_is_refused(row, tmp_path):
    (tmp_path / "a.csv").write_text(f"id,question,context,answers\n{row}\n")
    with pytest.raises(DataError, match=r"a.csv, record 1: \d fields for 4 columns; .* must be quoted"):
        rows_of(tmp_path / "a.csv")


def test_csv_file_of_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes("question,context,answers\nq,caf\u00e9,\n".encode("cp1252"))
    with pytest.raises(DataError, match="not UTF-8 text"):
        rows_of(tmp_path / "a.csv")


def test_question_that_is_not_impossible_needs_its_answers(tmp_path):
    (tmp_path / "a.csv").write_text("question,context,is_impossible\nq,x,False\n")
    with pytest.raises(DataError, match=r"no column 'answers'; .*\"answers.text\" and"):
        rows_of(tmp_path / "a.csv")


# How tools write that there is no answer, and one that has an answer beside.
EMPTY = [
    ({"text": [""], "answer_start": [0]}, []),
    ({"text": [""], "answer_start": [-1]}, []),
    ({"text": [" "], "answer_start": [None]}, []),
    ({"text": "", "answer_start": -1}, []),
    ([{"text": "", "answer_start": 0}], []),
    ({"text": ["", "y"], "answer_start": [0, 2]}, ["y"]),
]


@pytest.mark.parametrize(("answers", "expected"), EMPTY)
def test_empty_answer_is_none_in_every_kind_of_file(answers, expected, tmp_path):
    row = GOOD | {"answers": answers}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    qas = [{"id": "1", "question": "q", "answers": answers}]
    (tmp_path / "b.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": "x y", "qas": qas}]}]}))
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
    write_csv(tmp_path / "a.csv", [row], json.dumps)
    write_csv(tmp_path / "b.csv", [row], repr)
    for path in tmp_path.iterdir():
        assert rows_of(path)[0]["answers"]["text"] == expected, path
    if isinstance(answers, dict) and isinstance(answers["text"], list):
        Dataset.from_list([GOOD, row]).save_to_disk(tmp_path / "saved")
        assert load_qa_dataset(str(tmp_path / "saved"))["train"][1]["answers"]["text"] == expected


def test_test_data_has_all_its_answers_or_none(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([GOOD, {"question": "q", "context": "x"}]))
    with pytest.raises(DataError, match="1 of 2 records have no 'answers': give them to all questions or to none"):
        rows_of(tmp_path / "a.json", "test")
