"""What the studies of encoders share: the sections of their page, its tables, and checks of what a run left."""

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnxruntime
import regex
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from helpers import ROOT
from sparsification.errors import SparsificationError

PAGE = ROOT / "docs" / "encoders.md"
HEAD = "<!-- Made by tests/*_study.py: run make encoders, change nothing here. -->\n\n# Encoders\n"
VERSIONS = (
    f"Transformers {transformers.__version__}, PyTorch {torch.__version__.partition('+')[0]} and ONNX Runtime "
    f"{onnxruntime.__version__}"
)
SPARSITY = 0.8
# The matrices of every family's encoder layers: found by name here, as a check of the token in the recipe.
PRUNED = r"(?!.*decoder).*layers?\.\d+\..*(?<!([nN]orm|wise|conv))\.weight"
PRUNE = f"""
modifiers:
  - !EpochRangeModifier {{end_epoch: 2.0}}
  - !GMPruningModifier
    params: __ENCODER__
    final_sparsity: {SPARSITY}
    mask_type: [1, 4]
    start_epoch: 0.0
    end_epoch: 1.0
    update_frequency: 0.5
"""
Cells = dict[str, str]  # of a row, by column


class StudyError(AssertionError):
    """A run ended well, and what it left is not right."""


@contextlib.contextmanager
def without_output() -> Iterator[None]:
    """Send what runs print to nowhere; standard error stays."""
    transformers.utils.logging.disable_progress_bar()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def family_parser(doc: str, families: Iterable[str]) -> argparse.ArgumentParser:
    """The command line of a study with this docstring."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--families", nargs="+", choices=families, help="only these, and print the section")
    return parser


def must(true: bool, what: str) -> None:
    """Raise StudyError if something is not so."""
    if not true:
        raise StudyError(what)


def outcome(work: Callable[[], object], folder: Path) -> str:
    """Give "yes", or the words in which a run was refused."""
    try:
        work()
    except SparsificationError as error:
        return str(error).replace(f"{folder}/", "")
    return "yes"


def check_weights(folder: Path) -> dict[str, Tensor]:
    """Check that every matrix which the recipe names has the zeros that it asks for; give all weights."""
    weights = load_file(folder / "model.safetensors")
    names = [name for name in weights if regex.match(PRUNED, name)]
    must(len(names) >= 4, f"only {names} are pruned")
    for name in names:
        share = float((weights[name] == 0).float().mean())
        must(abs(share - SPARSITY) < 0.02, f"{name} has {share:.0%} zeros")
    must(all(bool(weight.isfinite().all()) for weight in weights.values()), "weights are no numbers")
    return weights


def table(columns: Sequence[str], rows: Mapping[str, Cells]) -> list[str]:
    """A row for each family; below it the words of refusals, for which cells have numbers."""
    words: list[str] = []

    def cell(text: str) -> str:
        if text == "yes":
            return text
        if text not in words:
            words.append(text)
        return f"no ({words.index(text) + 1})"

    lines = [f"| encoder | {' | '.join(columns)} |", f"|---{'|---' * len(columns)}|"]
    lines += [f"| {family} | {' | '.join(cell(cells[name]) for name in columns)} |" for family, cells in rows.items()]
    if words:
        lines += ["", "Where it says no, the run is refused before training:", ""]
        lines += [f"{number}. `{text}`" for number, text in enumerate(words, 1)]
    return lines


def publish(title: str, lines: Sequence[str], whole: bool) -> None:
    """Put a section into the page, in place of the one with its title; print it where it is of some families only."""
    if not whole:
        sys.stdout.write("\n".join(lines) + "\n")
        return
    sections = read_sections() | {title: "\n".join(lines)}
    text = HEAD + "".join(f"\n## {name}\n\n{body}\n" for name, body in sections.items())
    PAGE.write_text(text, encoding="utf-8")


def read_sections() -> dict[str, str]:
    """The page's sections, by title."""
    parts = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    return {title: body.strip("\n") for title, _, body in (part.partition("\n") for part in parts)}


def read_table(title: str) -> dict[str, dict[str, str]]:
    """The first table of a section: cells by row and column."""
    lines = read_sections()[title].partition("\n| ")[2].split("\n\n")[0].splitlines()
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {name: dict(zip(head[1:], cells, strict=True)) for name, *cells in rows}
