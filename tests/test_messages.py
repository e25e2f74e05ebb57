"""Is every row of docs/messages.md true: does the code print it, and is there a test of that name?"""

import pytest
from conftest import ROOT

ROWS = [
    [cell.strip(" ") for cell in line.strip("|\n").split(" | ")]
    for line in (ROOT / "docs" / "messages.md").read_text().splitlines()
    if line.startswith("| ") and "::" in line
]
SOURCES = "\n".join(path.read_text() for path in (*ROOT.glob("*.py"), *(ROOT / "sparsification").rglob("*.py")))


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_row_names_what_is_printed_and_a_test_that_is_there(row):
    _, printed, status, _, test = row
    file, name = test.split("::")
    assert f"def {name}(" in (ROOT / "tests" / file).read_text()
    assert status in ("0", "1", "130")
    words = printed.strip("`")
    assert words == "Traceback" or words in SOURCES


def test_every_error_of_a_run_has_its_rows():
    assert len(ROWS) > 20
    assert {row[2] for row in ROWS} == {"0", "1", "130"}
