"""Rows of docs/messages.md: the code prints each message, and the test of that name looks for it."""

import ast
import re

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


def test_rows_name_what_is_printed_and_a_test_that_looks_for_it():
    for row in ROWS:
        check_row(*row)


def check_row(wrong: str, printed: str, status: str, _: str, test: str) -> None:
    file, name = test.split("::")
    module = ast.parse((ROOT / "tests" / file).read_text())
    functions = {node.name: node for node in module.body if isinstance(node, ast.FunctionDef)}
    assert name in functions, f"{wrong}: {test} is no test"
    assert status in ("0", "1", "130")
    words = printed.strip("`")
    if words == "Traceback":  # Python's own word
        return
    assert words in SOURCES, f"{wrong}: no module prints {words!r}"
    # In the test with its cases, or in a table of the module; what other functions look for proves nothing.
    tables = [strings(node) for node in module.body if isinstance(node, ast.Assign)]
    if "from helpers.flag_cases import" in ast.unparse(module):
        tables.append((ROOT / "tests" / "helpers" / "flag_cases.py").read_text())
    looked_for = "\n".join([strings(functions[name]), *tables])
    assert words.strip(" ,;:") in looked_for, f"{wrong}: {test} does not look for {words!r}"


def test_every_error_of_a_run_has_its_rows():
    assert len(ROWS) > 20
    assert {row[2] for row in ROWS} == {"0", "1", "130"}


def test_every_module_that_raises_an_error_in_its_own_words_has_a_row(subtests):
    errors = set(re.findall(r"`sparsification\.[\w.]+\.(\w+)`", (ROOT / "docs" / "errors.md").read_text()))
    for path in sorted((ROOT / "sparsification").rglob("*.py")):
        text = path.read_text()
        calls = (node.exc for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Raise))
        own = [call for call in calls if isinstance(call, ast.Call) and ast.unparse(call.func) in errors]
        if any(re.search(r"\w", strings(call)) for call in own):
            with subtests.test(path.name):
                assert any(row[1].strip("`") in text for row in ROWS), f"docs/messages.md has no message of {path}"
