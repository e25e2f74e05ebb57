"""Data sets of question answering: hub, folders and files become one table with the columns of ``QA_FEATURES``."""

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute as pc
from datasets import Dataset, DatasetDict, Value

from sparsification.tasks.errors import DataError
from sparsification.tasks.question_answering.arguments import EXTENSIONS
from sparsification.tasks.question_answering.records import QA_FEATURES, is_labelled, qa_record, read_records

logger = logging.getLogger(__name__)

# The hub's short names of 2021; today a name needs an owner.
HUB_NAMES = {"squad": "rajpurkar/squad", "squad_v2": "rajpurkar/squad_v2"}
SPLIT_PREFIXES = {"train": ("train",), "validation": ("validation", "valid", "dev"), "test": ("test",)}


def load_qa_dataset(
    dataset_name: str | None = None,
    dataset_config_name: str | None = None,
    data_files: Mapping[str, str] | None = None,
    cache_dir: str | None = None,
    token: str | None = None,
) -> DatasetDict:
    """Load question-answering data from the hub, a folder or files, with the columns of ``QA_FEATURES``.

    Args:
        dataset_name: a folder on this machine, or the name of a data set on the hub.
        dataset_config_name: configuration of that data set; for a folder, a folder inside it.
        data_files: split name -> path; such a file replaces that split of ``dataset_name``.
        cache_dir: folder of the converted tables, which later runs use again.
        token: access token of the hub.

    Raises:
        DataError: the data is missing, or is not question-answering data.
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
        DataError: it cannot be loaded.
    """
    try:
        loaded = datasets.load_dataset(HUB_NAMES.get(name, name), config_name, cache_dir=cache_dir, token=token)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"{name}: neither a local folder nor a data set that could be loaded from the hub ({error})"
        ) from error
    return _as_qa_datasets(loaded, name)


def load_squad_files(
    data_files: Mapping[str, str | os.PathLike | Sequence[str | os.PathLike]], cache_dir: str | None = None
) -> DatasetDict:
    """Load SQuAD-like files: JSON (nested or flat), JSON lines, CSV, parquet.

    The table is cached in ``cache_dir`` under a hash of the files' content.

    Args:
        data_files: split name -> one path, or several that are concatenated.
        cache_dir: folder of the cache; None: the one of the datasets library.

    Raises:
        DataError: a file is missing or empty, or a record is not a question.
    """
    loaded = DatasetDict()
    for split, given in data_files.items():
        paths = [os.fspath(path) for path in ([given] if isinstance(given, (str, os.PathLike)) else given)]
        for path in paths:
            if not os.path.isfile(path):
                raise DataError(f"{path}: no such file (the {split} data)")
        loaded[split] = table_of_files(_generate_records, paths, split, cache_dir)
    return loaded


def table_of_files(
    generate: Callable[..., Iterator[dict[str, Any]]], paths: list[str], split: str, cache_dir: str | None, **more: Any
) -> Dataset:
    """Make a table from files, or take it from the cache.

    Args:
        generate: yields rows of ``QA_FEATURES``, given ``paths``, ``split_name``, ``digest`` and ``more``.
        paths: the files.
        split: name of the split.
        cache_dir: folder of the cache; None: the one of the datasets library.
        **more: further arguments of ``generate``.

    Raises:
        DataError: as ``generate`` raises it.
    """
    try:
        table = Dataset.from_generator(
            generate,
            features=QA_FEATURES,
            cache_dir=cache_dir,
            # The digest is part of the cache's key: an edited file is read again.
            gen_kwargs={"paths": paths, "split_name": split, "digest": _digest(paths), **more},
            split=datasets.NamedSplit(split),
        )
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, (DataError, OSError)):
            raise error.__cause__ from None
        raise
    table.info.builder_name = "json"  # the model card would link any other name to a data set of the hub
    return table


def load_dataset_folder(folder: Path, config_name: str | None = None, cache_dir: str | None = None) -> DatasetDict:
    """Load a folder: one that ``save_to_disk`` wrote, or one with files named train*, validation* (dev*), test*.

    The files are searched in the folder ``config_name``; without one, in the folder itself, in its folder ``data`` and
    in its only subfolder, in this order.

    Raises:
        DataError: there are no such files, or several for one split.
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
    """Find the file of a split, or its parts, named like train-00000-of-00002.parquet."""
    if not place.is_dir():
        return []
    found = [
        path
        for path in sorted(place.iterdir())
        if path.is_file() and path.name.lower().startswith(prefixes) and path.suffix[1:].lower() in EXTENSIONS
    ]
    if len(found) > 1 and not all(re.search(r"-\d+-of-\d+", path.name) for path in found):
        names = " or ".join(path.name for path in found)
        raise DataError(f"{place}: ambiguous, there is {names}; name one with --train_file or --validation_file")
    return [os.fspath(path) for path in found]


def _digest(paths: list[str]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _generate_records(paths: list[str], split_name: str, digest: str) -> Iterator[dict[str, Any]]:
    """Yield the questions of files as rows of ``QA_FEATURES``."""
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
            # Scores would count the others as questions without an answer.
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


def _as_qa_datasets(loaded: DatasetDict, where: str) -> DatasetDict:
    """Check the splits of a loaded data set, and convert those whose columns are not ``QA_FEATURES``."""
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
    """Whether any answer of a data set is an empty text."""
    batches = data.select_columns("answers").with_format("arrow").iter(1000)
    answers = (batch["answers"].combine_chunks().field("text").flatten() for batch in batches)
    return any(pc.any(pc.equal(pc.utf8_trim_whitespace(texts), "")).as_py() for texts in answers)


def _record_of_row(row: dict[str, Any], index: int, where: str, answers_needed: bool) -> dict[str, Any]:
    return qa_record(row, f"{where}, record {index + 1}", number=index, answers_needed=answers_needed)
