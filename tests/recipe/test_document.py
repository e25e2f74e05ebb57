"""Text of a recipe: where it stands, its lines, tags and limits."""

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.hostile_recipes import HOSTILE
from helpers.loading import ALL, RANGE, problem_of, problems_of
from sparsification.recipe.loader import RecipeError, load_recipe


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".yaml", RANGE),
        (".yml", RANGE),
        (".YAML", "---\n" + RANGE),
        (".yaml", "\ufeff" + RANGE),
        (".md", f"---\n{RANGE}---\n"),
        (".md", f"+++\n{RANGE}+++\n# Title\n---\nmore: {{text\n"),
        (".md", f"\n<!-- licence\n---\n-->\n\n<!-- and more -->\n--- \n{RANGE}---  \ntext"),
        (".md", f"---\n{RANGE}---\n".replace("\n", "\r\n")),
    ],
)
def test_recipe_is_found_in_file(tmp_path, suffix, text):
    path = tmp_path / f"recipe{suffix}"
    path.write_bytes(text.encode())
    for source in (path, str(path)):
        recipe = load_recipe(source)
        assert recipe.modifiers[0].end_epoch == 3.0
        assert recipe.source == str(path)


@pytest.mark.parametrize("text", [RANGE, "---\n" + RANGE, f"---\n{RANGE}---\n# Title", f"+++\n{RANGE}+++\n"])
def test_recipe_is_found_in_text(text):
    recipe = load_recipe(text)
    assert (recipe.modifiers[0].end_epoch, recipe.source) == (3.0, "<recipe>")


def test_lines_are_counted_from_the_top_of_the_file(tmp_path):
    path = tmp_path / "recipe.md"
    path.write_text("<!--\nlicence\n-->\n---\nmodifiers:\n  - !EpochRangeModifier\n    end_epoch: x\n---\n")
    assert problem_of(path).startswith(f"{path}, line 7: EpochRangeModifier: end_epoch must be a number, got 'x'")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.md", RANGE, "must begin with YAML between two lines '---'"),
        ("x.md", "# Title\n---\n" + RANGE + "---\n", "must begin with YAML between two lines '---'"),
        ("x.md", "---\n" + RANGE, "line 1: the front matter has no closing line '---'"),
        ("x.md", "<!-- -->\n+++\n" + RANGE + "---\n", "line 2: the front matter has no closing line '+++'"),
        ("x.md", "---\n---\n", "is empty"),
        ("x.yaml", "", "is empty"),
        ("x.yaml", " \n# only a comment\n", "is empty"),
        ("x.yaml", "a: 1\n", "a recipe needs a list 'modifiers:'"),
        ("x.yaml", "modifiers:\n", "a recipe needs a list 'modifiers:'"),
        ("x.yaml", "just words\n", "line 1: a recipe must be a mapping or a list of modifiers, got a string"),
        ("x.yaml", b"a: 1\nb: \xff\n", "line 2: the file must be UTF-8"),
        ("x.yaml", "#" * 1_000_001, "at most 1000000 bytes"),
        ("x.txt", RANGE, "a recipe must be a .yaml, .yml or .md file"),
        ("x.yaml", "a: [1, 2\nb: 3\n", "line 2: "),
        ("x.yaml", "a: 1\n\tb: 2\n", "line 2: found character '\\\\t'"),
        ("x.yaml", "a: *b\n", "line 1: found undefined alias"),
        ("x.yaml", "---\na: 1\n---\nb: 1\n", "line 3: but found another document"),
        ("x.yaml", "a: 1\nb: \x01\n", "line 2: a character that YAML does not allow"),
    ],
)
def test_file_without_a_recipe_is_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    problem = problem_of(path)
    assert problem.startswith(str(path))
    assert message.replace("\\\\", "\\") in problem
    assert problem.count("\n") == 0


def test_missing_file_and_directory_are_refused(tmp_path):
    (tmp_path / "prune80.md").write_text("")
    assert problem_of(tmp_path) == f"{tmp_path}: is not a file"
    assert problem_of(tmp_path / "prune8.md").endswith("no such file; did you mean 'prune80.md'?")
    assert problem_of(str(tmp_path / "no" / "x.md")).endswith("no such file")
    for name in ("", "a\0b.yaml", "x" * 5000 + ".yaml", "zoo:nlp/bert"):
        problem_of(name)


def test_raw_text_over_the_limit_is_refused():
    assert "at most 1000000 characters" in problem_of("#\n" * 600_000)


SAID = {
    **dict.fromkeys(("object tag", "name tag", "module tag", "verbatim tag"), "' is not allowed here"),
    **dict.fromkeys(("import", "attribute", "big shift"), " is not allowed: only numbers, variables"),
    **dict.fromkeys(("billion laughs", "deep brackets", "list that holds itself"), "the recipe is too large"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_recipe_ends_in_one_error_soon(name):
    start = time.process_time()
    problems = problems_of(HOSTILE[name])
    assert SAID.get(name, "") in problems[0]
    assert time.process_time() - start < 5
    assert max(map(len, problems)) < 1000
    assert not Path("/tmp/owned").exists()


WORDS = st.sampled_from(
    [
        *"[]{}:,-?*&!|>'\"%@`#\n\n\n\n  ",
        "- ",
        ": ",
        "a",
        "b",
        "&a",
        "*a",
        "!AnyModifier",
        "modifiers:",
        "\n  - ",
        "\n    ",
    ]
    + [
        "eval(",
        ")",
        "a + b",
        "1e5",
        "0x",
        "1:2",
        "---\n",
        "+++\n",
        "<!--",
        "-->",
        "free: ",
        "__metadata__:",
        "<<",
        "\t",
        "\0",
    ]
    + ["!!python/name:os.system", "!!str", "!!int", "%YAML 1.1\n", "\\U", "\\x", "\ud800", "…", "\u2028", "\x85", "7"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=40).map("".join) | st.text(max_size=80), st.none() | st.text(max_size=20))
def test_random_text_is_a_recipe_or_a_recipe_error(text, arguments):
    try:
        recipe = load_recipe(text + "\n", arguments, modifiers=ALL)
    except RecipeError as error:
        assert error.problems
        assert str(error).replace("\n", "").isprintable()
    else:
        recipe.to_yaml()
