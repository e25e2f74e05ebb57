"""Which questions are there? Files, folders and hub data sets in; one table with always the same columns out.

SQuAD itself ships nested JSON (articles -> paragraphs -> questions), the hub flat records; people also keep JSON lines,
CSV and parquet. All of them become rows of ``QA_FEATURES``, and whatever cannot is refused with file and record.
"""

import ast
import csv
import hashlib
import json
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import datasets
import pyarrow.compute as pc
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Features, List, Value

from sparsification.tasks.question_answering.arguments import EXTENSIONS, QAError

logger = logging.getLogger(__name__)

QA_FEATURES = Features(
    {
        "id": Value("string"),
        "title": Value("string"),
        "context": Value("string"),
        "question": Value("string"),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))},
    }
)
FLAT_ANSWERS = (
    "answers.text",
    "answers.answer_start",
)  # as Dataset.flatten names them
CSV_SEPARATORS = ",;\t"
# The hub's short names of 2021; only the names with an owner are sure to be found today.
HUB_NAMES = {"squad": "rajpurkar/squad", "squad_v2": "rajpurkar/squad_v2"}
SPLIT_PREFIXES = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}


class DataError(QAError):
    """A data file or data set that cannot be used."""


def load_qa_dataset(
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    data_files: Mapping[str, str] | None = None,
    cache_dir: str | None = None,
    token: str | None = None,
) -> DatasetDict:
    """Load question-answering data, wherever it comes from, with the columns of ``QA_FEATURES``.

    Args:
        dataset_name: a folder on this machine or the name of a data set on the hub.
        dataset_config_name: which configuration of that data set; in a folder: a folder inside it.
        data_files: split name -> path; such a file takes the place of that split of ``dataset_name``.
        cache_dir: where the converted tables are kept between runs.
        token: access token of the hub.

    Raises:
        DataError: nothing there, or not question-answering data.
    """
    loaded = DatasetDict()
    if dataset_name is not None and Path(dataset_name).is_dir():
        loaded = load_dataset_folder(Path(dataset_name), dataset_config_name, cache_dir=cache_dir)
    elif dataset_name is not None:
        loaded = load_from_hub(dataset_name, dataset_config_name, cache_dir=cache_dir, token=token)
    loaded.update(load_squad_files(data_files or {}, cache_dir=cache_dir))
    return loaded


def load_from_hub(
    name: str, config_name: str | None = None, cache_dir: str | None = None, token: str | None = None
) -> DatasetDict:
    """Load a data set from the hub, or from its cache on this machine.

    Raises:
        DataError: it cannot be fetched.
    """
    try:
        loaded = datasets.load_dataset(HUB_NAMES.get(name, name), config_name, cache_dir=cache_dir, token=token)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{name}: neither a folder here nor a data set that could be fetched from the hub ({error})"
        ) from error
    return _as_qa_datasets(loaded, name)


def load_squad_files(
    data_files: Mapping[str, str | os.PathLike | Sequence[str | os.PathLike]], cache_dir: str | None = None
) -> DatasetDict:
    """Load SQuAD-like files: JSON (nested or flat), JSON lines, CSV, parquet.

    The table is written once into ``cache_dir`` and found again there as long as the file's content stays the same.

    Args:
        data_files: split name -> one path, or several that are read one after the other.
        cache_dir: where the tables are kept; None means the datasets library's own place.

    Raises:
        DataError: a missing or empty file, or records that are no questions.
    """
    loaded = DatasetDict()
    for split, given in data_files.items():
        paths = [os.fspath(path) for path in ([given] if isinstance(given, (str, os.PathLike)) else given)]
        for path in paths:
            if not os.path.isfile(path):
                raise DataError(f"{path}: no such file (the {split} data)")
        try:
            loaded[split] = Dataset.from_generator(
                _generate_records,
                features=QA_FEATURES,
                cache_dir=cache_dir,
                # Part of the cache's key only: an edited file is read again.
                gen_kwargs={"paths": paths, "split_name": split, "digest": _digest(paths)},
                split=datasets.NamedSplit(split),
            )
        except datasets.exceptions.DatasetGenerationError as error:
            if isinstance(error.__cause__, (DataError, OSError)):
                raise error.__cause__ from None
            raise
        loaded[split].info.builder_name = "json"  # so that the model card takes the file for no data set of the hub
    return loaded


def load_dataset_folder(folder: Path, config_name: str | None = None, cache_dir: str | None = None) -> DatasetDict:
    """Load a folder: one that ``save_to_disk`` wrote, or one with files named train*, validation* (dev*), test*.

    The files are looked for in the folder named ``config_name``, or else in the folder itself, its ``data`` folder and
    its only other folder, in this order.

    Raises:
        DataError: no such files, or several that could be meant.
    """
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        saved = datasets.load_from_disk(os.fspath(folder))
        return _as_qa_datasets(saved if isinstance(saved, DatasetDict) else DatasetDict(train=saved), str(folder))
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if config_name is not None and (folder / config_name).is_dir():
        places = [folder / config_name]
    else:
        places = [folder, folder / "data", *(inner if len(inner) == 1 else [])]
    for place in places:
        data_files = {split: _split_files(place, prefixes) for split, prefixes in SPLIT_PREFIXES.items()}
        data_files = {split: files for split, files in data_files.items() if files}
        if data_files:
            return load_squad_files(data_files, cache_dir=cache_dir)
    endings = ", ".join(f".{extension}" for extension in EXTENSIONS)
    raise DataError(f"{folder}: no train*, validation* (or dev*) or test* file that ends in {endings}")


def _split_files(place: Path, prefixes: tuple[str, ...]) -> list[str]:
    """Find the one file of a split, or its parts named like train-00000-of-00002.parquet."""
    if not place.is_dir():
        return []
    found = [
        path
        for path in sorted(place.iterdir())
        if path.is_file() and path.name.lower().startswith(prefixes) and path.suffix[1:].lower() in EXTENSIONS
    ]
    if len(found) > 1 and not all(re.search(r"-\d+-of-\d+", path.name) for path in found):
        names = " or ".join(path.name for path in found)
        raise DataError(f"{place}: which file is meant, {names}? Name it with --train_file / --validation_file")
    return [os.fspath(path) for path in found]


def _digest(paths: list[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _generate_records(paths: list[str], split_name: str, digest: str) -> Iterator[dict[str, Any]]:
    """Yield the files' questions as rows of ``QA_FEATURES``."""
    for path in paths:
        count = misplaced = labelled = 0
        for count, raw in enumerate(read_records(path), start=1):
            record = qa_record(raw, f"{path}, record {count}", number=count - 1, answers_needed=split_name != "test")
            misplaced += not _answers_in_place(record)
            labelled += is_labelled(raw)
            yield record
        if count == 0:
            raise DataError(f"{path}: no questions in it")
        if split_name == "test" and 0 < labelled < count:
            # Scores would count the others as unanswerable.
            raise DataError(
                f"{path}: {count - labelled} of {count} records have no 'answers': give them to all questions or to "
                'none; a question without an answer has "answers": {"text": [], "answer_start": []}'
            )
        if misplaced:
            logger.warning(f"{path}: in {misplaced} of {count} records the answer is not at its answer_start")


def _answers_in_place(record: dict[str, Any]) -> bool:
    answers = record["answers"]
    return all(
        record["context"].startswith(text, start)
        for text, start in zip(answers["text"], answers["answer_start"], strict=True)
    )


def read_records(path: str) -> Iterator[dict[str, Any]]:
    """Yield the raw records of one file, nested SQuAD JSON already taken apart.

    Raises:
        DataError: an unknown extension, or a file that is not what its extension says.
    """
    extension = Path(path).suffix[1:].lower()
    if os.path.getsize(path) == 0:
        raise DataError(f"{path}: the file is empty")
    if extension in ("json", "jsonl"):
        yield from _read_json(path)
    elif extension == "csv":
        yield from _read_csv(path)
    elif extension == "parquet":
        try:
            for batch in pq.ParquetFile(path).iter_batches():
                yield from batch.to_pylist()
        except ValueError as error:  # pyarrow's ArrowInvalid is one
            raise DataError(f"{path}: not a parquet file ({error})") from error
    else:
        raise DataError(f"{path}: cannot read '.{extension}'; known are {', '.join('.' + e for e in EXTENSIONS)}")


def _read_csv(path: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # contexts are longer than the 128 KiB that csv allows a field
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=_separator(file))
            header = [name.strip() for name in next(rows)]
            count = 0
            for row in rows:
                if not row:
                    continue
                count += 1
                if len(row) < len(header) or any(row[len(header) :]):
                    raise DataError(
                        f"{path}, record {count}: {len(row)} fields for {len(header)} columns; a text that holds the "
                        "separator, a quote or a line break stands in quotes, as Python's csv.writer writes it"
                    )
                yield dict(zip(header, row, strict=False))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a UTF-8 text ({error})") from error
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{path}: not a CSV file ({error})") from error


def _separator(file: TextIO) -> str:
    """Tell which sign separates the columns: the one that makes ``question`` and ``context`` of the header."""
    for separator in CSV_SEPARATORS:
        file.seek(0)
        header = next(csv.reader(file, delimiter=separator))
        if {"question", "context"} <= {name.strip() for name in header}:
            break
    else:
        separator = CSV_SEPARATORS[0]
    file.seek(0)
    return separator


def _read_json(path: str) -> Iterator[dict[str, Any]]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a UTF-8 text ({error})") from error
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        content = _json_lines(path, text, error)
    if isinstance(content, dict) and "data" in content:
        content = content["data"]
    elif isinstance(content, dict) and ("question" in content or "paragraphs" in content):
        content = [content]  # JSON lines of a single line
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise DataError(f'{path}: expected SQuAD\'s {{"data": [...]}} or a list of records, found {_brief(content)}')
    for item in content:
        if "paragraphs" in item:
            yield from _questions_of(item, path)
        else:
            yield item


def _json_lines(path: str, text: str, whole_error: json.JSONDecodeError) -> list[Any]:
    records = []
    # Not splitlines: JSON strings may hold U+2028, U+0085 and others of its separators as they are.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError as error:
            if not records:
                raise DataError(f"{path}, line {whole_error.lineno}: not JSON ({whole_error.msg})") from error
            raise DataError(f"{path}, line {number}: not JSON ({error.msg})") from error
    return records


def _questions_of(article: dict[str, Any], path: str) -> Iterator[dict[str, Any]]:
    """Yield one flat record for every question of one article of SQuAD's nested JSON."""
    try:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield {"title": article.get("title"), "context": paragraph["context"], **question}
    except (KeyError, TypeError) as error:
        title = article.get("title")
        raise DataError(
            f"{path}: article {title!r} is not SQuAD's paragraphs -> context, qas -> question (missing: {error})"
        ) from error


def qa_record(raw: Mapping[str, Any], where: str, number: int, answers_needed: bool = True) -> dict[str, Any]:
    """Bring one raw record into the shape of ``QA_FEATURES``.

    Args:
        raw: a record with ``question``, ``context`` and, where needed, ``answers``.
        where: file and record, for messages.
        number: becomes the ``id`` of a record that has none.
        answers_needed: False for test data, whose answers may be unknown.

    Raises:
        DataError: a column is missing or of the wrong kind.
    """
    for column in ("question", "context"):
        if column not in raw:
            raise DataError(f"{where}: no column '{column}'; there are {', '.join(map(repr, raw)) or 'none'}")
        if not isinstance(raw[column], str):
            raise DataError(f"{where}: '{column}' should be a text, not {_brief(raw[column])}")
    if answers_needed and not is_labelled(raw):
        raise DataError(
            f"{where}: no column 'answers'; there are {', '.join(map(repr, raw))}. It holds "
            '{"text": [...], "answer_start": [...]}, in CSV as json.dumps writes it; "answers.text" and '
            '"answers.answer_start" are columns that can stand for it'
        )
    given_id = raw.get("id")
    return {
        "id": str(number if given_id in (None, "") else given_id),
        "title": str(raw.get("title") or ""),
        "context": raw["context"],
        "question": raw["question"],
        "answers": {"text": [], "answer_start": []}
        if _is_true(raw.get("is_impossible"))
        else _answers(_given_answers(raw, where), where),
    }


def is_labelled(raw: Mapping[str, Any]) -> bool:
    """Tell whether a raw record says what the right answer is, or that there is none."""
    return "answers" in raw or set(FLAT_ANSWERS) <= set(raw) or _is_true(raw.get("is_impossible"))


def _given_answers(raw: Mapping[str, Any], where: str) -> Any:
    """Give a record's answers as they are, or put them together from two columns ``answers.*``."""
    if "answers" in raw or not set(FLAT_ANSWERS) <= set(raw):
        return raw.get("answers")
    texts, starts = (raw[column] for column in FLAT_ANSWERS)
    if isinstance(starts, str) and starts.strip():
        starts = _literal(starts, "answers.answer_start", where)
        # Whether it is a list decides it for the text, too: an answer may itself look like one.
        if isinstance(starts, list) and isinstance(texts, str):
            texts = _literal(texts, "answers.text", where)
    if texts in (None, "", []) and starts in (None, "", []):
        return None
    return {"text": texts, "answer_start": starts}


def _literal(value: str, column: str, where: str) -> Any:
    """Read a column's text as JSON or as a Python literal."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise DataError(
                f"{where}: '{column}' is neither JSON nor a Python literal: {_brief(value)}. Write the column as JSON "
                '({"text": ["Rome"], "answer_start": [12]}), or the data set with to_json in place of to_csv'
            ) from error


def _is_true(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "1")


def _answers(value: Any, where: str) -> dict[str, list]:
    """Bring answers into ``{"text": [...], "answer_start": [...]}``, from a dict, a list of dicts or their text."""
    if isinstance(value, str) and value.strip():
        value = _literal(value, "answers", where)
    if value in (None, "", []):
        return {"text": [], "answer_start": []}
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if isinstance(texts, str) and not isinstance(starts, list):
            texts, starts = [texts], [starts]
    elif isinstance(value, list) and all(isinstance(answer, dict) for answer in value):
        texts = [answer.get("text") for answer in value]
        starts = [answer.get("answer_start") for answer in value]
    else:
        texts = starts = None
    good = (
        isinstance(texts, list)
        and isinstance(starts, list)
        and len(texts) == len(starts)
        and all(isinstance(text, str) for text in texts)
        # Where an empty text stands means nothing; some tools write -1.
        and all(
            isinstance(start, int) and 0 <= start < 2**31
            for text, start in zip(texts, starts, strict=True)
            if text.strip()
        )
    )
    if not good:
        raise DataError(
            f"{where}: 'answers' should be {{'text': [texts], 'answer_start': [numbers]}}, one number from 0 on for "
            f"each text, not {_brief(value)}"
        )
    # Annotation tools write "no answer" as an empty text.
    kept = [(text, start) for text, start in zip(texts, starts, strict=True) if text.strip()]
    return {"text": [text for text, _ in kept], "answer_start": [start for _, start in kept]}


def has_answer_text(answers: Mapping[str, Sequence[str]]) -> bool:
    """Tell whether a question has an answer: an empty text is none."""
    return any(text.strip() for text in answers["text"])


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _as_qa_datasets(loaded: DatasetDict, where: str) -> DatasetDict:
    """Check the splits of a loaded data set and give them ``QA_FEATURES`` where their columns differ."""
    for split, data in loaded.items():
        answers = data.features.get("answers")
        is_text = all(data.features.get(column) == Value("string") for column in ("id", "question", "context"))
        if is_text and isinstance(answers, dict) and {"text", "answer_start"} <= set(answers) and not _has_empty(data):
            continue
        loaded[split] = data.map(
            _record_of_row,
            with_indices=True,
            fn_kwargs={"where": f"{where}, split {split}", "answers_needed": split != "test"},
            remove_columns=data.column_names,
            features=QA_FEATURES,
        )
    return loaded


def _has_empty(data: Dataset) -> bool:
    """Tell whether an answer of a data set is an empty text."""
    batches = data.select_columns("answers").with_format("arrow").iter(1000)
    answers = (batch["answers"].combine_chunks().field("text").flatten() for batch in batches)
    return any(pc.any(pc.equal(pc.utf8_trim_whitespace(texts), "")).as_py() for texts in answers)


def _record_of_row(row: dict[str, Any], index: int, where: str, answers_needed: bool) -> dict[str, Any]:
    return qa_record(row, f"{where}, record {index + 1}", number=index, answers_needed=answers_needed)


def check_answers(examples: Dataset, version_2_with_negative: bool) -> None:
    """Refuse to train where no question has an answer; warn where some have none and none was announced.

    Raises:
        DataError: no question has an answer.
    """
    missing = sum(not has_answer_text(answers) for answers in examples["answers"])
    if missing == len(examples):
        raise DataError(f"none of the {missing} training questions has an answer")
    if missing and not version_2_with_negative:
        logger.warning(
            f"{missing} of {len(examples)} training questions have no answer; "
            "--version_2_with_negative is meant for such data"
        )


def check_references(examples: Dataset, version_2_with_negative: bool, metric: str | None) -> None:
    """Refuse questions whose answers cannot be scored as the flags ask.

    Args:
        examples: questions with their true answers.
        version_2_with_negative: whether some of them may have none.
        metric: what decides which checkpoint is the best, if anything does.

    Raises:
        DataError: questions without answers that were not announced, or no question of those that the metric is about.
    """
    missing = sum(not has_answer_text(answers) for answers in examples["answers"])
    name = (metric or "").removeprefix("eval_")
    if version_2_with_negative:
        for group, count in (("HasAns_", len(examples) - missing), ("NoAns_", missing)):
            if name.startswith(group) and count == 0:
                raise DataError(f"--metric_for_best_model {metric}: there is no such question in the evaluation data")
    elif 0 < missing < len(examples):
        raise DataError(
            f"{missing} of {len(examples)} questions of the evaluation data have no answer: with "
            "--version_2_with_negative they count as questions that should get none"
        )
    elif missing and metric is not None:
        raise DataError(f"--metric_for_best_model {metric}: no question of the evaluation data has an answer to score")


def check_ids(examples: Dataset) -> None:
    """Refuse questions that share an id, because answers go by it.

    Raises:
        DataError: an id occurs twice.
    """
    seen: set[str] = set()
    for example_id in examples["id"]:
        if example_id in seen:
            raise DataError(f"two questions have the id '{example_id}'; every question needs its own")
        seen.add(example_id)
