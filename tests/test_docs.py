"""Are the generated pages those of the code as it is, and is nothing missing from them?"""

import dataclasses
import importlib.util
import re
import sys

from helpers import ROOT
from sparsification.modifiers import MODIFIERS

spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
generate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(generate)


def test_generated_pages_are_current(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    generate.main()  # exits with a message if a page is not


def test_every_modifier_is_there_with_all_its_keys(subtests):
    for name in MODIFIERS:
        with subtests.test(name):
            page = (ROOT / "docs" / "modifiers.md").read_text()
            section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
            shared = page.split("\n## ")[0]
            for field in dataclasses.fields(MODIFIERS[name]):
                if field.init:
                    assert f"| `{field.name}` |" in section or f"| `{field.name}` |" in shared, field.name


def test_a_comment_behind_a_field_is_in_its_row():
    comments = generate.field_comments(MODIFIERS["GMPruningModifier"])
    assert comments["update_frequency"]
    assert comments["update_frequency"].replace("|", "\\|") in (ROOT / "docs" / "modifiers.md").read_text()


def test_every_recipe_has_its_row_with_what_its_text_says():
    rows = (ROOT / "recipes" / "README.md").read_text()
    for path in (ROOT / "recipes").glob("*.md"):
        assert path.name == "README.md" or f"]({path.name}) |" in rows
    assert "| 81.37 / 88.62 (SparseML's tutorial of 2021; its dense teacher: 80.93 / 88.44) |" in rows


def test_what_a_recipe_states_is_read_over_line_ends():
    text = "\n# x\n\nDoes one thing. And another.\n\n- Published for SQuAD, EM / F1: 1 / 2 (a\n  b).\n- Measured: no.\n"
    assert generate.stated(text, "Published") == "1 / 2 (a b)"
    assert generate.stated(text, "Measured") == "no"
    assert generate.summary(text) == "Does one thing."


def test_what_pages_tell_to_make_has_a_rule():
    text = (ROOT / "Makefile").read_text()
    rules = set(re.findall(r"^([a-z0-9-]+):.*## ", text, re.M))
    phony = re.search(r"\.PHONY: ((?:.*\\\n)*.*)", text)[1].replace("\\\n", " ").split()
    pages = [
        page for folder in (".", "docs", "benchmarks", "recipes", "provider") for page in (ROOT / folder).glob("*.md")
    ]
    told = {name for page in pages for name in re.findall(r"`make ([a-z0-9-]+)", page.read_text())}
    assert len(told) > 10
    assert told <= rules and rules <= set(phony)
    assert all(re.search(rf"^{name}:", text, re.M) for name in phony)
