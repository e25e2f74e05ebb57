"""Write the pages that say what the code and the recipes say themselves.

    python docs/generate.py            # docs/{api,modifiers,flags,errors}.md and recipes/README.md
    python docs/generate.py --check    # exit status 1 if one of them is not current

A modifier's page is its docstring, and its fields with the comments that stand behind them; a recipe's row is what the
recipe does, and what its own text says was published and measured.
"""

import argparse
import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
import typing
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import sparsification  # noqa: E402
import sparsification.errors  # noqa: E402
from helpers.flag_cases import SCRIPT, TRAINING, cases_of  # noqa: E402
from sparsification.manager import ScheduledModifierManager  # noqa: E402
from sparsification.modifiers import (  # noqa: E402
    MODIFIERS,
    Modifier,
)
from sparsification.plain_loop import PlainLoop, modify  # noqa: E402
from sparsification.recipe.types import describe, show  # noqa: E402
from sparsification.tasks.question_answering.flag_rules import RULES  # noqa: E402

MADE_BY = "<!-- Made by docs/generate.py: change the {source}, not this page. -->"


def main() -> None:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a page is not current")
    check = parser.parse_args().check
    stale = [path for path, text in pages().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            sys.exit(f"{path.relative_to(ROOT)} is not current: run python docs/generate.py")
        path.write_text(pages()[path], encoding="utf-8")


def pages() -> dict[Path, str]:
    """All generated pages: path and text."""
    return {
        ROOT / "docs" / "api.md": api_page(),
        ROOT / "docs" / "modifiers.md": modifiers_page(),
        ROOT / "docs" / "flags.md": flags_page(),
        ROOT / "docs" / "errors.md": errors_page(),
        ROOT / "recipes" / "README.md": recipes_page(),
    }


# Errors


def errors_page() -> str:
    """The tree of the errors that a user can do something about."""
    for module in pkgutil.walk_packages(sparsification.__path__, "sparsification."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    lines = [
        MADE_BY.format(source="docstrings of the error classes"),
        "",
        "# Errors",
        "",
        "All errors that a user can do something about are subclasses of `sparsification.errors.SparsificationError`:",
        "catch that one, or the one that you handle. Their messages are in [messages.md](messages.md); in brackets",
        "stand the built-in errors that a class is as well. Any other is a fault of the program: please report it.",
        "",
        *error_lines(sparsification.errors.SparsificationError),
    ]
    return "\n".join(lines) + "\n"


def error_lines(kind: type[Exception], depth: int = 0) -> list[str]:
    """An error and those derived from it, each with where it is and when it is raised."""
    builtin = [f"`{base.__name__}`" for base in kind.__bases__ if base.__module__ == "builtins" and depth]
    also = f" ({', '.join(builtin)})" if builtin else ""
    text = " ".join(inspect.cleandoc(kind.__doc__).split("\n\n")[0].split())
    lines = [f"{'  ' * depth}- `{kind.__module__}.{kind.__name__}`{also}: {text}"]
    for child in sorted(kind.__subclasses__(), key=lambda child: (child.__module__, child.__name__)):
        lines += error_lines(child, depth + 1)
    return lines


# API


def api_page() -> str:
    """The public names: import, docstring, and what a class offers."""
    lines = [MADE_BY.format(source="docstrings of the public names"), "", "# API", "", *_docstring(sparsification)]
    names = [name for name in sparsification.__all__ if name != "__version__"]
    subjects = {name: getattr(sparsification, name) for name in names}
    subjects |= {f"plain_loop.{subject.__name__}": subject for subject in (PlainLoop, modify)}
    for name, subject in subjects.items():
        lines += ["", f"## {name}", "", *_docstring(subject)]
        if isinstance(subject, type):
            lines += _fields_and_methods(subject)
    return "\n".join(lines) + "\n"


def _docstring(subject: object) -> list[str]:
    """A docstring: its first paragraph as text, the rest as it is written in the code."""
    first, _, rest = inspect.getdoc(subject).partition("\n\n")
    lines = _paragraphs(first)
    return [*lines, "", "```text", *rest.rstrip().splitlines(), "```"] if rest.strip() else lines


def _fields_and_methods(kind: type) -> list[str]:
    """What a class defines itself under public names, with the first lines of its docstrings."""
    names = [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    lines = ["", "Fields: " + ", ".join(f"`{name}`" for name in names) + "."] if names else []
    rows = []
    for name, member in vars(kind).items():
        function = member.__func__ if isinstance(member, classmethod) else member
        function = function.fget if isinstance(function, property) else function
        if not name.startswith("_") and inspect.isfunction(function) and function.__doc__:
            text = " ".join(inspect.getdoc(function).partition("\n\n")[0].split())
            rows.append(f"| `{name}` | {text.replace('``', '`').replace('|', chr(92) + '|')} |")
    return [*lines, "", "| | |", "|---|---|", *rows] if rows else lines


# Modifiers


def modifiers_page() -> str:
    """What each modifier does, and its keys."""
    lines = [
        MADE_BY.format(source="docstrings and fields in sparsification/modifiers"),
        "",
        "# Modifiers",
        "",
        "What a recipe can ask for. Times are in epochs, sparsity is a fraction in [0, 1]. Every modifier has:",
        "",
        *_table(Modifier, ()),
    ]
    for name, kind in MODIFIERS.items():
        text = inspect.cleandoc(kind.__doc__)
        own = {field for base in kind.__mro__ if base not in Modifier.__mro__ for field in base.__annotations__}
        shared = {field.name for field in dataclasses.fields(Modifier)} - own
        lines += ["", f"## {name}", "", *_paragraphs(text), "", *_table(kind, shared)]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> list[str]:
    """A docstring's text as Markdown: double backticks become single ones."""
    return text.replace("``", "`").splitlines()


def _table(kind: type, left_out: typing.Collection[str]) -> list[str]:
    comments = field_comments(kind)
    hints = typing.get_type_hints(kind)
    rows = []
    for field in dataclasses.fields(kind):
        if field.init and field.name not in left_out:
            comment = comments.get(field.name, "").replace("|", "\\|")
            rows.append(f"| `{field.name}` | {describe(hints[field.name])} | {_default(field)} | {comment} |")
    return ["| key | value | default | |", "|---|---|---|---|", *rows] if rows else ["It has no keys of its own."]


def _default(field: dataclasses.Field) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{show(field.default)}`"
    if field.default_factory is not dataclasses.MISSING:
        return f"`{show(field.default_factory())}`"
    return "required"


def field_comments(kind: type) -> dict[str, str]:
    """The comments behind the fields of a dataclass and of its bases, by field."""
    comments = {}
    for base in reversed(kind.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        source = textwrap.dedent(inspect.getsource(base))
        lines = source.splitlines()
        for node in ast.parse(source).body[0].body:
            if isinstance(node, ast.AnnAssign):
                _, found, comment = lines[node.end_lineno - 1][node.end_col_offset :].partition("# ")
                if found:
                    comments[node.target.id] = comment.strip()
    return comments


# Flags


def flags_page() -> str:
    """What becomes of each flag of run_qa.py, and the case by which that is tested."""
    lines = [
        MADE_BY.format(
            source="rules in tasks/question_answering/flag_rules.py and the cases in tests/helpers/flag_cases.py"
        ),
        "",
        "# Flags",
        "",
        "All flags of `run_qa.py`: those of Transformers' script and of this project first, then Trainer's. Each was",
        "run on a tiny model as the last columns say. *Works* means that the run went through with it; *refused* that",
        "it ended with one message before training; *corrected* and *no effect* that a warning says so. Everything",
        "that no rule names works as Transformers documents it.",
        "",
    ]
    for title, cases in (("The script's flags", SCRIPT), ("Trainer's flags", TRAINING)):
        lines += [f"## {title}", "", "| flag | rules | tried | what came of it |", "|---|---|---|---|"]
        for flag in sorted(cases):
            rules = " ".join(f"*{rule.outcome.capitalize()}*: {rule.reason}." for rule in RULES if rule.flag == flag)
            tried = cases_of(flag)
            argvs = "<br>".join(f"`{_plain(case.argv)}`" for case in tried)
            outcomes = "<br>".join(case.outcome for case in tried)
            lines.append(f"| `--{flag}` | {rules} | {argvs} | {outcomes} |")
        lines.append("")
    return "\n".join(lines)


def _plain(argv: str) -> str:
    return argv.format(
        recipe="RECIPE", distills="DISTILLS.yaml", model="MODEL", file="FILE", text="TEXT.txt", out="OUT"
    ).strip()


# Recipes


def recipes_page() -> str:
    """One row for each recipe of the folder."""
    lines = [
        MADE_BY.format(source="recipes themselves"),
        "",
        "# Recipes to copy",
        "",
        "Each file says what it does, its command, what was published and what this project measured. Preview a recipe",
        "before training: `sparsification check recipes/NAME.md --model MODEL`.",
        "",
        "For any encoder (BERT, RoBERTa, DistilBERT, ELECTRA, MPNet, DeBERTa, ModernBERT and others):",
        *(f"[{path.stem}]({path.name})" + ("." if path == _generic()[-1] else ",") for path in _generic()),
        "They name parameters by the token `__ENCODER__`. The `bert-base` recipes have SparseML's patterns for BERT.",
        "",
        "Recipes that this project has measured come first.",
        "",
        "| recipe | what it does | layers | sparsity | int8 | epochs | published, SQuAD v1.1 EM / F1 | measured here |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rest = sorted(path for path in (ROOT / "recipes").glob("*.md") if path.name != "README.md")
    rows = []
    for path in dict.fromkeys([*_generic(), *rest]):
        manager = ScheduledModifierManager.from_yaml(path)
        text = path.read_text(encoding="utf-8").split("\n---\n", 1)[1]
        facts = (
            f"[{path.stem}]({path.name})",
            summary(text),
            layers(manager, path.stem),
            sparsity(manager),
            "yes" if manager.quantizes else "",
            "none" if "--one_shot" in text.split("```")[1] else f"{manager.max_epochs:g}",
            stated(text, "Published"),
            stated(text, "Measured"),
        )
        rows.append(facts)
    rows.sort(key=lambda facts: facts[-1].startswith("not measured"))
    return "\n".join([*lines, *(f"| {' | '.join(facts)} |" for facts in rows)]) + "\n"


def _generic() -> list[Path]:
    """The recipes that are for no particular model."""
    paths = sorted(path for path in (ROOT / "recipes").glob("*.md") if path.name != "README.md")
    return [path for path in paths if "any encoder" in path.read_text(encoding="utf-8")]


def summary(text: str) -> str:
    """The first sentence under the title."""
    paragraph = next(part for part in text.split("\n\n") if part.strip() and not part.lstrip().startswith("#"))
    return re.split(r"(?<=\.)\s", " ".join(paragraph.split()))[0]


def stated(text: str, word: str) -> str:
    """What the line ``- Published ...: `` or ``- Measured ...: `` says, up to its first full stop."""
    line = re.search(rf"^- {word}[^:]*:(.*(?:\n  .*)*)", text, re.MULTILINE)
    return " ".join(line[1].split()).rstrip(".")


def layers(manager: ScheduledModifierManager, name: str) -> str:
    """How many layers a model has afterwards."""
    size = re.search(r"(\d+)layers", name)
    dropped = sum(len(modifier.layer_patterns) for modifier in manager.modifiers)
    if size is None:
        return f"any, less {dropped}" if dropped else "any"
    return f"{size[1]} of {int(size[1]) + dropped}" if dropped else size[1]


def sparsity(manager: ScheduledModifierManager) -> str:
    """The share of zeros that the recipe reaches in what it prunes, and its pattern."""
    for modifier in manager.modifiers:
        values = vars(modifier)
        if "final_sparsity" in values:
            pattern = "" if values["mask_type"] == "unstructured" else f", {show(values['mask_type'])}"
            return f"{values['final_sparsity']:.0%}{pattern}"
    return "as they are" if any(modifier.masks_weights for modifier in manager.modifiers) else ""


if __name__ == "__main__":
    main()
