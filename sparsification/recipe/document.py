"""Reading a recipe's file into a YAML tree, and writing YAML.

A node has a tag, a text and a line; an alias is the same node as its anchor. Tags construct no objects here, and a tree
that is too deep or too large is refused while it is read.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from sparsification.errors import SparsificationError
from sparsification.recipe.expressions import FLOAT, INT

MAX_BYTES = 1_000_000
MAX_NODES = 10_000
MAX_DEPTH = 50
TOO_LARGE = f"the recipe is too large: more than {MAX_NODES} values, or nested more than {MAX_DEPTH} deep"
CORE = "tag:yaml.org,2002:"


class RecipeError(SparsificationError, ValueError):
    """A recipe is not valid; the message has one line per problem."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """Return the end of a message about an unknown name: the most similar known one, else ``otherwise``."""
    short = [other for other in known if len(other) <= 100][:500]  # limits the time of the comparison
    near = difflib.get_close_matches(name[:100], short, n=1, cutoff=0.7)
    return f"; did you mean '{near[0]}'?" if near else otherwise


def read_text(source: str | Path) -> tuple[str, str]:
    """Find the YAML of a recipe.

    Args:
        source: a .yaml, .yml or .md file, or the text of a recipe, which contains a line break.

    Returns:
        Name of the recipe for messages; its YAML, with the same line numbers as in the file.

    Raises:
        RecipeError: the file does not exist, cannot be read, or contains no recipe.
    """
    if isinstance(source, str) and ("\n" in source or "\r" in source):
        if len(source) > MAX_BYTES:
            raise RecipeError(f"<recipe>: a recipe must have at most {MAX_BYTES} characters")
        return "<recipe>", _front_matter("<recipe>", source, is_markdown=False)
    name, path = str(source), Path(source)
    if name.startswith("zoo:"):
        raise RecipeError(f"{name}: the SparseZoo is closed; pass a recipe file instead")
    try:
        if not path.is_file():
            near = (other.name for other in path.parent.iterdir()) if path.parent.is_dir() else ()
            what = "is not a file" if path.exists() else "no such file" + did_you_mean(path.name, near)
            raise RecipeError(f"{name}: {what}")
        if path.suffix.lower() not in (".yaml", ".yml", ".md"):
            raise RecipeError(f"{name}: a recipe must be a .yaml, .yml or .md file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"{name}: cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{name}: a recipe must have at most {MAX_BYTES} bytes")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{name}, line {line}: the file must be UTF-8 text") from error
    return name, _front_matter(name, text, is_markdown=True) if path.suffix.lower() == ".md" else text


def _front_matter(name: str, text: str, *, is_markdown: bool) -> str:
    """Return the YAML between two fences, after as many blank lines as there are above; without fences, the text."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    above = re.match(r"(?:\s+|<!--.*?-->)*", text, re.DOTALL)  # blank lines and comments, such as a licence
    lines, first = text.split("\n"), text.count("\n", 0, above.end() if above else 0)
    fence = lines[first].rstrip()
    if fence in ("---", "+++"):
        for last in range(first + 1, len(lines)):
            if lines[last].rstrip() == fence:
                return "\n" * (first + 1) + "\n".join(lines[first + 1 : last])
        if is_markdown or fence == "+++":  # in a .yaml file '---' opens a document and needs no closing line
            raise RecipeError(f"{name}, line {first + 1}: the front matter has no closing line '{fence}'")
    elif is_markdown:
        raise RecipeError(f"{name}: a .md recipe must begin with YAML between two lines '---'")
    return text


def compose(name: str, text: str) -> yaml.Node | None:
    """Read YAML into a tree of nodes.

    Args:
        name: of the text, in the marks of the nodes and in messages.
        text: one YAML document.

    Returns:
        The root; None for an empty document.

    Raises:
        RecipeError: there is a syntax error, or the tree is too large.
    """
    try:
        return _Loader(name, text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark, what = error.problem_mark or error.context_mark, str(error.problem or error.context)
        raise RecipeError(f"{name}, line {mark.line + 1 if mark else 1}: {what[:200]}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(f"{name}, line {line}: a character that YAML does not allow") from error
    except (ValueError, OverflowError) as error:  # chr() of an escape, int() of a directive, inside PyYAML
        raise RecipeError(f"{name}: an escape or a directive is out of range") from error


def plain_scalar(name: str, text: str) -> yaml.ScalarNode:
    """Make the node of an unquoted scalar, whatever characters the text has."""
    mark = yaml.Mark(name, 0, 0, 0, None, 0)
    return yaml.ScalarNode(_Loader(name, "").resolve(yaml.ScalarNode, text, (True, False)), text, mark, mark)


class _Loader(yaml.SafeLoader):
    """Composes nodes, within bounds. Unquoted scalars are strings, except numbers, booleans and null."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name
        self.depth = self.nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        if self.depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(problem=TOO_LARGE, problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.yaml_implicit_resolvers = {}
for _kind, _pattern in (
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
    ("bool", re.compile(r"(?:yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF)\Z")),
    ("int", INT),
    ("float", FLOAT),
):
    _Loader.add_implicit_resolver(CORE + _kind, _pattern, None)


@dataclass(frozen=True)
class Tagged:
    """A mapping to be written with ``!tag``."""

    tag: str
    mapping: dict[str, object]


class _Dumper(yaml.SafeDumper):
    """Writes no aliases, and quotes strings that YAML 1.1 or this package would read as another type."""

    def ignore_aliases(self, data: object) -> bool:
        return True

    def represent_tagged(self, tagged: Tagged) -> yaml.Node:
        return self.represent_mapping(f"!{tagged.tag}", tagged.mapping, flow_style=not tagged.mapping)


_Dumper.add_implicit_resolver(CORE + "float", FLOAT, None)
_Dumper.add_implicit_resolver(CORE + "int", INT, None)
_Dumper.add_representer(Tagged, _Dumper.represent_tagged)


def dump(document: dict[str, object]) -> str:
    """Write plain values and ``Tagged`` mappings as YAML, with the innermost lists on one line."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
