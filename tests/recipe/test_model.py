"""Recipes written as YAML and read again."""

import json

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.loading import ALL, AnyModifier, load
from sparsification.recipe.loader import Recipe, load_recipe


def test_written_recipe_is_resolved_and_has_the_explicit_keys():
    text = "__metadata__: {a: 1}\nn: &n 30\nm: eval(n * 2)\nmodifiers:\n"
    text += "  - !AnyModifier {whole: 0, number: *n, names: &l [a, '2:4', 1e5x], free: {x: *l, y: *l}, text: 2:4}\n"
    assert load(text, "n=3").to_yaml() == (
        "__metadata__:\n  a: 1\n  variables: {n: 3, m: 6}\n"
        "modifiers:\n- !AnyModifier\n  number: 3.0\n  whole: 0\n  text: '2:4'\n"
        "  names: [a, '2:4', 1e5x]\n  free:\n    x: [a, '2:4', 1e5x]\n    y: [a, '2:4', 1e5x]\n"
    )
    assert load("modifiers: []").to_yaml() == "modifiers: []\n"
    assert load("modifiers: [!AnyModifier ]").to_yaml() == "modifiers:\n- !AnyModifier {}\n"


def test_written_strings_stay_strings_to_any_yaml_reader():
    texts = [
        "2:4",
        "1e5",
        "0o17",
        "yes",
        "2026-11-23",
        "",
        "null",
        "~",
        "<<",
        "=",
        "012",
        "a: b",
        "# a",
        "é\U0001f600",
        "a\nb",
    ]
    recipe = load("modifiers:\n  - !AnyModifier\n    names: " + json.dumps(texts, ensure_ascii=False))
    assert load(recipe.to_yaml()).modifiers[0].names == texts
    assert yaml.safe_load(recipe.to_yaml().replace("!AnyModifier", ""))["modifiers"][0]["names"] == texts


TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=12).filter(
    # Not a reference, an expression or a name with a quote at one end only.
    lambda text: text != "<<" and not text.startswith("eval(") and (text[:1] in "'\"") == (text[-1:] in "'\"")
)
NUMBER = st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT | NUMBER, inner, max_size=4),
    max_leaves=12,
)
ANY_MODIFIER = st.builds(
    AnyModifier,
    number=st.floats(allow_nan=False, allow_infinity=False),
    whole=st.integers(-(2**63), 2**63),
    text=TEXT,
    switch=st.booleans(),
    either=st.floats(allow_nan=False, allow_infinity=False) | TEXT | st.none(),
    names=st.lists(TEXT, max_size=4),
    groups=st.dictionaries(st.floats(0, 1), st.lists(TEXT, max_size=3), max_size=3),
    free=PLAIN,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(ANY_MODIFIER, max_size=3), st.dictionaries(TEXT, PLAIN, max_size=3))
def test_any_recipe_survives_writing(modifiers, variables):
    recipe = Recipe(modifiers, variables, {"a": [1, "2:4"]}, "x.md", [])
    again = load_recipe(recipe.to_yaml(), modifiers=ALL)
    assert again.modifiers == recipe.modifiers
    assert again.metadata == recipe.metadata | ({"variables": variables} if variables else {})
