"""Reads a script's arguments from files and from the command line, which overrides them.

    python run_qa.py arguments.yaml --seed 3
    python run_qa.py --config arguments.yaml --seed 3

Each file is converted into a command line and checked by itself, so that an error names its file.
"""

import argparse
import difflib
import functools
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import DataClassType, string_to_bool

from sparsification.arguments import load_manager, prepare_export
from sparsification.compat.legacy_flags import FlagError, translate_flags
from sparsification.manager import ScheduledModifierManager
from sparsification.tasks.errors import UsageError

logger = logging.getLogger(__name__)

CONFIG = "--config"
FILES = (".json", ".yaml", ".yml")


class ArgumentParser(HfArgumentParser):
    """HfArgumentParser whose errors are one message, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError, where argparse would print the message and exit."""
        raise UsageError(message)


def read_arguments(kinds: Sequence[type], argv: list[str]) -> tuple[tuple[Any, ...], ScheduledModifierManager]:
    """Read the command line, the JSON or YAML files of arguments that it names, and its recipe.

    Args:
        kinds: dataclasses of the arguments; ``SparsificationArguments`` and Transformers' ``TrainingArguments`` are
            among them.
        argv: the arguments after the script's name.

    Returns:
        One object of each dataclass, in their order; and the manager of the recipe.

    Raises:
        UsageError: an unknown flag or key, or a value that is refused.
        SparsificationError: a flag of 2021 without an equivalent today, a wrong recipe, or no compiler for the export.
    """
    parser = ArgumentParser(map(DataClassType, kinds))
    accept_files_and_lists(parser)
    values, warnings, place = parse_command_line(parser, argv)
    if line := name_dashboards(values):
        warnings.append(line)
    for line in warnings if is_first_process() else ():
        logger.warning(line)
    manager = load_manager(values.recipe, values.recipe_args, values.one_shot)
    prepare_export(values.onnx_export_path, values.onnx_target)
    # Last, because Transformers' arguments detect devices, which takes seconds.
    try:
        return parser.parse_dict(vars(values)), manager
    except (ValueError, TypeError, ImportError) as error:  # raised by the arguments' own checks
        if values.ddp_backend is not None and "process group" in str(error):
            message = f"--ddp_backend {values.ddp_backend}: needs several processes; launch with torchrun"
            raise UsageError(place + message) from error
        raise UsageError(f"{place}{error}") from error


def accept_files_and_lists(parser: HfArgumentParser) -> None:
    """Add ``--config``, and several values for flags that take a text or a list, e.g. ``--report_to wandb trackio``.

    HfArgumentParser considers only the first of several types, and so reads a single text.
    """
    parser.add_argument(
        CONFIG,
        metavar="FILE",
        help="JSON or YAML file of flags and their values; flags on the command line override it.",
    )
    for flag in _lists(parser):
        parser._option_string_actions[flag].nargs = "+"
    for action in parser._actions:
        if "no" in (action.choices or ()) and callable(action.type):
            action.type = functools.partial(_word, action.type)
    parser._option_string_actions["--report_to"].default = None  # to distinguish a given value from the default
    parser._option_string_actions["--include_num_input_tokens_seen"].type = _counted_tokens
    parser._option_string_actions["--fsdp"].nargs = "*"  # a switch, or the list of words of Transformers 4


def parse_command_line(parser: HfArgumentParser, argv: list[str]) -> tuple[argparse.Namespace, list[str], str]:
    """Read a command line and the files that it names.

    Args:
        parser: a parser to which ``accept_files_and_lists`` was applied.
        argv: the arguments after the script's name.

    Returns:
        The values of all flags; one warning for each flag of 2021; and a prefix for errors that concern several
        arguments, which is empty if no file was read.

    Raises:
        UsageError: a file that cannot be read, an unknown flag or key, or a value that is refused.
        FlagError: a flag of 2021 without an equivalent today.
    """
    sources, typed = _sources(argv)
    merged: list[str] = []
    warnings: list[str] = []
    for path, words in sources:
        try:
            words, said = translate_flags(words)
            _parse_part(parser, words)
        except FlagError as error:
            raise FlagError("\n".join(f"{path}: {line}" for line in str(error).splitlines())) from error
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from error
        merged = _override(merged, words)
        warnings += said
    _parse_part(parser, translate_flags(typed)[0])
    merged, said = translate_flags(_override(merged, typed))
    place = " and ".join([*(path for path, _ in sources), *(["the command line"] if typed else [])]) + ": "
    place = place if sources else ""
    try:
        return parse_flags(parser, merged), warnings + said, place
    except UsageError as error:
        raise UsageError(f"{place}{error}") from error


def _parse_part(parser: HfArgumentParser, argv: list[str]) -> None:
    """Raise UsageError for an error in a part of the arguments, which may lack required ones."""
    required = [action.option_strings[0] for action in parser._actions if action.required]
    parse_flags(parser, [*(f"{flag}=" for flag in required), *argv])


def name_dashboards(values: argparse.Namespace) -> str | None:
    """Set Transformers' default if no dashboard is named; return a warning for a training with a recipe."""
    if values.report_to is not None:
        return None
    values.report_to = "none"
    if values.recipe is None or not values.do_train:
        return None
    return (
        "No dashboard gets the curves of this run: Transformers 5 reports to none by default. Name one with "
        "--report_to wandb, trackio or tensorboard. The report in --output_dir shows the curves at the end."
    )


def is_first_process() -> bool:
    """Whether this is the first process of a launch by torchrun or accelerate, which sets its rank."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) in ("0", "-1")


def parse_flags(parser: HfArgumentParser, argv: list[str]) -> argparse.Namespace:
    """Read today's flags.

    Raises:
        UsageError: an unknown flag, or a value that is refused.
    """
    values, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UsageError(_about_unknown(parser, argv, unknown))
    if values.config is not None:
        raise UsageError(f"{CONFIG} {values.config}: a file of arguments cannot name another one")
    del values.config
    for flag in _lists(parser):
        given = getattr(values, flag[2:])
        if isinstance(given, list) and len(given) == 1:
            setattr(values, flag[2:], given[0])  # a single text may be a keyword: all, none
    if isinstance(values.fsdp, list):
        words = " ".join(values.fsdp) if values.fsdp else "true"
        values.fsdp = {"": False, "true": True, "false": False}.get(words.lower(), words)
    return values


def _counted_tokens(text: str) -> str | bool:
    """Read a switch that also accepts two words."""
    return text if text in ("all", "non_padding") else string_to_bool(text)


def _word(read: Callable[[str], object], text: str) -> object:
    """Read one of several words; YAML reads the word no as false."""
    return read("no" if text == "False" else text)


def _about_unknown(parser: HfArgumentParser, argv: list[str], unknown: list[str]) -> str:
    first = unknown[0]
    if not first.startswith("-"):
        before = [word for word in argv[: argv.index(first)] if word.startswith("--")]
        if first.endswith(FILES):
            return f"unknown: {first}; a file of arguments comes first, or after {CONFIG}"
        if before and before[-1].partition("=")[0] in parser._option_string_actions:
            return f"unknown: {' '.join(unknown)}; {before[-1].partition('=')[0]} takes one value"
    near = difflib.get_close_matches(first.partition("=")[0], parser._option_string_actions, n=1)
    return f"unknown: {' '.join(unknown)}" + (f"; did you mean {near[0]}?" if near else "")


def _lists(parser: HfArgumentParser) -> list[str]:
    """Flags that take one text or several."""
    hints = [hint for kind in parser.dataclass_types for hint in get_type_hints(kind).items()]
    return [f"--{name}" for name, hint in hints if {str, list[str]} <= set(get_args(hint))]


def _sources(argv: list[str]) -> tuple[list[tuple[str, list[str]]], list[str]]:
    """The files of arguments, as command lines, of which later ones override earlier ones; and the flags typed."""
    beside = Path(sys.argv[0]).with_suffix(".args")  # HfArgumentParser reads this file, too
    sources = [(str(beside), beside.read_text(encoding="utf-8").split())] if beside.is_file() else []
    typed, words = [], iter(argv)
    if argv and argv[0].endswith(FILES) and not argv[0].startswith("-"):
        sources.append((argv[0], read_config_file(next(words))))
    for word in words:
        flag, equals, path = word.partition("=")
        if flag != CONFIG:
            typed.append(word)
            continue
        path = path if equals else next(words, "")
        if not path or path.startswith("--"):
            raise UsageError(f"{CONFIG} expects a file")
        sources.append((path, read_config_file(path)))
    return sources, typed


def _override(argv: list[str], later: list[str]) -> list[str]:
    """Append later flags to a command line and remove those that they override, also under names of 2021."""
    names = {_name(words) for words in _flags(translate_flags(later)[0])}
    return [word for words in _flags(argv) if _name(words) not in names for word in words] + later


def _flags(argv: list[str]) -> list[list[str]]:
    """Each flag with its values."""
    groups: list[list[str]] = []
    for word in argv:
        if word.startswith("--") or not groups:
            groups.append([])
        groups[-1].append(word)
    return groups


def _name(words: list[str]) -> str:
    return words[0].partition("=")[0].replace("-", "_")


def read_config_file(path: str) -> list[str]:
    """Convert a JSON or YAML file of ``flag: value`` into a command line, so that both are checked in the same way.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected flags and their values, found {type(values).__name__}")
    argv = []
    for name, value in values.items():
        if isinstance(value, list) and value:
            argv += [f"--{name}", *map(str, value)]
        elif value is not None and value != []:
            argv.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return argv
