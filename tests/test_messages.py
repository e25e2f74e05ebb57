"""Is every row of docs/messages.md true: does the code print it, and does the test of that name look for it?"""

import ast
import re

import pytest

from helpers import ROOT

ROWS = [
    [cell.strip(" ") for cell in line.strip("|\n").split(" | ")]
    for line in (ROOT / "docs" / "messages.md").read_text().splitlines()
    if line.startswith("| ") and "::" in line
]
SOURCES = "\n".join(path.read_text() for path in [ROOT / "run_qa.py", *(ROOT / "sparsification").rglob("*.py")])


def strings(node: ast.AST) -> str:
    """The texts in a piece of code, those of regular expressions without their backslashes."""
    texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)]
    return "\n".join(re.sub(r"\\(.)", r"\1", text) for text in texts)


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_row_names_what_is_printed_and_a_test_that_looks_for_it(row):
    _, printed, status, _, test = row
    file, name = test.split("::")
    module = ast.parse((ROOT / "tests" / file).read_text())
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    assert name in functions
    assert status in ("0", "1", "130")
    words = printed.strip("`")
    if words == "Traceback":  # Python's own word
        return
    assert words in SOURCES
    # In the test with its cases, or in a table of the module; what other functions look for proves nothing.
    tables = [strings(node) for node in module.body if isinstance(node, ast.Assign)]
    if "from helpers.flag_cases import" in ast.unparse(module):
        tables.append((ROOT / "tests" / "helpers" / "flag_cases.py").read_text())
    assert words.strip(" ,;:") in "\n".join([strings(functions[name]), *tables])


def test_every_error_of_a_run_has_its_rows():
    assert len(ROWS) > 20
    assert {row[2] for row in ROWS} == {"0", "1", "130"}
