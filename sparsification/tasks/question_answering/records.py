"""Records of question answering: files of JSON, JSON lines, CSV and parquet become rows of ``QA_FEATURES``.

SQuAD's own JSON is nested (articles -> paragraphs -> questions); other files hold one flat record for each question.
Errors name the file and the number of the record.
"""

import ast
import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import pyarrow.parquet as pq
from datasets import Features, List, Value

from sparsification.tasks.errors import DataError
from sparsification.tasks.question_answering.arguments import EXTENSIONS

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
)  # names of Dataset.flatten
CSV_SEPARATORS = ",;\t"


def read_records(path: str, questions_needed: bool = True) -> Iterator[dict[str, Any]]:
    """Yield the raw records of one file; nested SQuAD JSON is flattened.

    Args:
        path: JSON, JSON lines, CSV or parquet.
        questions_needed: False for text: a nested paragraph without questions is one record, without ``question``.

    Raises:
        DataError: the extension is unknown, or the content is not of that format.
    """
    extension = Path(path).suffix[1:].lower()
    if os.path.getsize(path) == 0:
        raise DataError(f"{path}: the file is empty")
    if extension in ("json", "jsonl"):
        yield from _read_json(path, questions_needed)
    elif extension == "csv":
        yield from _read_csv(path)
    elif extension == "parquet":
        try:
            for batch in pq.ParquetFile(path).iter_batches():
                yield from batch.to_pylist()
        except ValueError as error:  # pyarrow's ArrowInvalid is one
            raise DataError(f"{path}: not a parquet file ({error})") from error
    else:
        raise DataError(f"{path}: cannot read '.{extension}', only {', '.join('.' + e for e in EXTENSIONS)}")


def _read_csv(path: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # contexts may exceed csv's default limit of 128 KiB
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
                        "separator, a quote or a line break must be quoted, as Python's csv.writer does"
                    )
                yield dict(zip(header, row, strict=False))
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})") from error
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{path}: not a CSV file ({error})") from error


def _separator(file: TextIO) -> str:
    """Find the separator of the columns: the one with which the header has ``context``."""
    for separator in CSV_SEPARATORS:
        file.seek(0)
        header = next(csv.reader(file, delimiter=separator))
        if "context" in {name.strip() for name in header}:
            break
    else:
        separator = CSV_SEPARATORS[0]
    file.seek(0)
    return separator


def _read_json(path: str, questions_needed: bool) -> Iterator[dict[str, Any]]:
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error})") from error
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        content = _json_lines(path, text, error)
    if isinstance(content, dict) and "data" in content:
        content = content["data"]
    elif isinstance(content, dict) and ("context" in content or "paragraphs" in content):
        content = [content]  # JSON lines of a single line
    if not isinstance(content, list) or not all(isinstance(item, dict) for item in content):
        raise DataError(f'{path}: expected SQuAD\'s {{"data": [...]}} or a list of records, found {_brief(content)}')
    for item in content:
        if "paragraphs" in item:
            yield from _questions_of(item, path, questions_needed)
        else:
            yield item


def _json_lines(path: str, text: str, whole_error: json.JSONDecodeError) -> list[Any]:
    records = []
    # Not splitlines, which also splits at U+2028, U+0085 and others; JSON strings may hold these unescaped.
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


def _questions_of(article: dict[str, Any], path: str, questions_needed: bool) -> Iterator[dict[str, Any]]:
    """Yield a flat record for each question of one article of SQuAD's nested JSON."""
    try:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"] if questions_needed else paragraph.get("qas") or [{}]:
                yield {"title": article.get("title"), "context": paragraph["context"], **question}
    except (KeyError, TypeError) as error:
        title = article.get("title")
        raise DataError(
            f"{path}: article {title!r} is not SQuAD's paragraphs -> context, qas -> question (missing: {error})"
        ) from error


def qa_record(raw: Mapping[str, Any], where: str, number: int, answers_needed: bool = True) -> dict[str, Any]:
    """Convert one raw record into a row of ``QA_FEATURES``.

    Args:
        raw: a record with ``question``, ``context`` and perhaps ``answers``.
        where: file and record, for messages.
        number: ``id`` of a record that has none.
        answers_needed: False for test data, whose answers may be unknown.

    Raises:
        DataError: a column is missing or has a wrong type.
    """
    for column in ("question", "context"):
        if column not in raw:
            raise DataError(f"{where}: no column '{column}'; there are {', '.join(map(repr, raw)) or 'none'}")
        if not isinstance(raw[column], str):
            raise DataError(f"{where}: '{column}' must be a text, got {_brief(raw[column])}")
    if answers_needed and not is_labelled(raw):
        raise DataError(
            f"{where}: no column 'answers'; there are {', '.join(map(repr, raw))}. It holds "
            '{"text": [...], "answer_start": [...]}, in CSV as json.dumps writes it; the columns "answers.text" and '
            '"answers.answer_start" can replace it'
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
    """Whether a raw record has an answer, or is marked as a question without one."""
    return "answers" in raw or set(FLAT_ANSWERS) <= set(raw) or _is_true(raw.get("is_impossible"))


def _given_answers(raw: Mapping[str, Any], where: str) -> Any:
    """A record's answers as they are, or combined from the two columns ``answers.*``."""
    if "answers" in raw or not set(FLAT_ANSWERS) <= set(raw):
        return raw.get("answers")
    texts, starts = (raw[column] for column in FLAT_ANSWERS)
    if isinstance(starts, str) and starts.strip():
        starts = _literal(starts, "answers.answer_start", where)
        # The text is a list if the start is one: an answer's text may itself look like a list.
        if isinstance(starts, list) and isinstance(texts, str):
            texts = _literal(texts, "answers.text", where)
    if texts in (None, "", []) and starts in (None, "", []):
        return None
    return {"text": texts, "answer_start": starts}


def _literal(value: str, column: str, where: str) -> Any:
    """Parse a column's text as JSON or as a Python literal."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise DataError(
                f"{where}: '{column}' is neither JSON nor a Python literal: {_brief(value)}. Write the column as JSON "
                '({"text": ["Rome"], "answer_start": [12]}), or save the data set with to_json instead of to_csv'
            ) from error


def _is_true(value: Any) -> bool:
    return value is True or str(value).lower() in ("true", "1")


def _answers(value: Any, where: str) -> dict[str, list]:
    """Convert answers from a dict, a list of dicts or their text into ``{"text": [...], "answer_start": [...]}``."""
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
    if (
        not isinstance(texts, list)
        or not isinstance(starts, list)
        or len(texts) != len(starts)
        or not all(isinstance(text, str) for text in texts)
        # The start of an empty text has no meaning; some tools write -1.
        or not all(
            isinstance(start, int) and 0 <= start < 2**31
            for text, start in zip(texts, starts, strict=True)
            if text.strip()
        )
    ):
        raise DataError(
            f"{where}: 'answers' must be {{'text': [texts], 'answer_start': [numbers]}} with one number >= 0 for each "
            f"text, got {_brief(value)}"
        )
    # Annotation tools write "no answer" as an empty text.
    kept = [(text, start) for text, start in zip(texts, starts, strict=True) if text.strip()]
    return {"text": [text for text, _ in kept], "answer_start": [start for _, start in kept]}


def has_answer_text(answers: Mapping[str, Sequence[str]]) -> bool:
    """Whether a question has an answer; an empty text is not an answer."""
    return any(text.strip() for text in answers["text"])


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
