"""Does a recipe mean what it meant to SparseML?

``recipes/recipes.json`` is what SparseML 1.8.0 made of each recipe text, or the error it raised.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from golden_run import GOLDEN as FOLDER

from sparsification.modifiers import MODIFIERS, Modifier
from sparsification.recipe.conflicts import learning_rate_conflicts
from sparsification.recipe.document import RecipeError
from sparsification.recipe.loader import load_recipe

GOLDEN = json.loads((FOLDER / "recipes" / "recipes.json").read_text())

# Where we mean something else than SparseML, and why.
DEVIATIONS = {
    "empty_list": "an explicit empty list is a recipe that does nothing, not an error",
    "final_sparsity_int": "init_sparsity: 0 is as good as 0.0",
    "missing_prop": "init_sparsity, final_sparsity and update_frequency have defaults",
}


def golden_source(case: dict, text: str, folder: Path) -> str | Path:
    if "\n" not in text:
        return text
    path = folder / f"recipe{case.get('file_suffix') or '.yaml'}"
    path.write_text(text)
    return path if case.get("file_suffix") else text


def compare(modifiers: list[Modifier], expected: list[dict]) -> None:
    # SparseML sorted the modifiers; what order they act in is the manager's matter, not the recipe's.
    def key(kind: str, start: float, end: float) -> tuple:
        return (end if end != -1 else math.inf, start, kind)

    modifiers = sorted(modifiers, key=lambda m: key(type(m).__name__, m.start_epoch, m.end_epoch))
    expected = sorted(expected, key=lambda m: key(m["type"], m["start_epoch"], m["end_epoch"]))
    assert [type(modifier).__name__ for modifier in modifiers] == [values["type"] for values in expected]
    for modifier, values in zip(modifiers, expected, strict=True):
        ours = asdict(modifier)
        # Quantizers on outputs, which SparseML had unless told otherwise, are here where they are asked for.
        ours |= {key: True for key in ("quantize_linear_activations", "quantize_embedding_activations") if key in ours}
        assert {key: ours[key] for key in values if key in ours} == {key: values[key] for key in values if key in ours}


def end_of(modifiers: list[Modifier]) -> float:
    return max((m.end_epoch for m in modifiers if type(m).__name__ == "EpochRangeModifier"), default=0)


@pytest.mark.parametrize("name", [name for name in GOLDEN if "error" not in GOLDEN[name] and "recipe" in GOLDEN[name]])
def test_recipe_means_what_sparseml_read(name, tmp_path):
    case = GOLDEN[name]
    recipe = load_recipe(golden_source(case, case["recipe"], tmp_path), case["recipe_args"])
    compare(recipe.modifiers, case["modifiers"])
    assert end_of(recipe.modifiers) == case["max_epochs"]
    assert sorted(recipe.stages) == sorted(case["stages"] or [])


@pytest.mark.parametrize("name", [name for name in GOLDEN if "error" not in GOLDEN[name]])
def test_recipe_written_by_sparseml_is_read_back(name):
    """``str`` is what SparseML saves beside a checkpoint; of the 15 recipes of 2021 it is all that was recorded."""
    recipe = load_recipe(GOLDEN[name]["str"] + "\n")
    compare(recipe.modifiers, GOLDEN[name]["modifiers"])
    assert end_of(recipe.modifiers) == GOLDEN[name]["max_epochs"]


@pytest.mark.parametrize("name", [name for name in GOLDEN if "error" in GOLDEN[name]])
def test_recipe_that_sparseml_refused_is_refused(name, tmp_path):
    case = GOLDEN[name]
    source = golden_source(case, case["recipe"], tmp_path)
    if name in DEVIATIONS:
        load_recipe(source, case.get("recipe_args"))
    else:
        with pytest.raises(RecipeError):
            load_recipe(source, case.get("recipe_args"))


def test_recorded_runs_have_no_two_modifiers_at_one_learning_rate(subtests):
    for path in sorted(FOLDER.glob("*/*.json")):
        with subtests.test(path.stem):
            case = json.loads(path.read_text())
            if "recipe" in case:
                root = yaml.compose(case["recipe"])
                names = {item.tag[1:] for key, value in root.value if "modifiers" in key.value for item in value.value}
                try:
                    recipe = load_recipe(case["recipe"], modifiers=dict.fromkeys(names, Modifier) | MODIFIERS)
                except RecipeError as error:
                    assert "learning rate" not in str(error)
                else:
                    assert not list(learning_rate_conflicts(recipe.modifiers))


@pytest.mark.parametrize("name", [name for name in GOLDEN if "error" not in GOLDEN[name] and "recipe" in GOLDEN[name]])
def test_golden_recipe_survives_writing(name, tmp_path):
    case = GOLDEN[name]
    recipe = load_recipe(golden_source(case, case["recipe"], tmp_path), case["recipe_args"])
    again = load_recipe(recipe.to_yaml())
    assert again.modifiers == recipe.modifiers
    told = {"variables": recipe.variables} if recipe.variables else {}
    assert (again.metadata or {}) == (recipe.metadata or {}) | told
    assert again.to_yaml() == recipe.to_yaml()


def test_recipes_that_sparseml_composed_are_read_as_its_stages():
    text = (FOLDER / "recipes" / "compose_staged.yaml").read_text()
    with pytest.raises(RecipeError, match="end_epoch must be -1, got 10: quantization has no end"):
        load_recipe(text)  # SparseML 1.8.0 writes it, and refuses it
    recipe = load_recipe(text.replace("end_epoch: 10\n          exclude", "end_epoch: -1\n          exclude"))
    assert recipe.stages == ["stage_0", "stage_1"]
    assert end_of(recipe.modifiers) == 12.0
    assert len(recipe.modifiers) == 5
