"""Are all errors that a user meets of one tree, each with a name of its own?"""

import ast
import importlib
from pathlib import Path

from helpers import ROOT
from sparsification.errors import SparsificationError

# Raised and caught inside the recipe reader.
INTERNAL = {"AlreadyReported"}


def error_classes() -> list[tuple[Path, ast.ClassDef]]:
    """All classes of the package that have an exception's name or base."""
    return [
        (path, node)
        for path in sorted((ROOT / "sparsification").rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id.endswith(("Error", "Exception")) for base in node.bases)
    ]


ERRORS = [(path, node.name) for path, node in error_classes() if not node.name.startswith("_")]


def test_error_is_of_the_one_tree_and_on_the_page(subtests):
    for path, name in ERRORS:
        with subtests.test(name):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            kind = getattr(importlib.import_module(module), name)
            if name in INTERNAL:
                assert not issubclass(kind, SparsificationError)
            else:
                assert issubclass(kind, SparsificationError)
                assert f"- `{module}.{name}`" in (ROOT / "docs" / "errors.md").read_text()


def test_no_two_errors_share_a_name():
    names = [node.name for _, node in error_classes()]
    assert len(names) == len(set(names)) > 20
