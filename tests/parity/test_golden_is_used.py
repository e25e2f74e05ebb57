"""Check that everything recorded from SparseML is compared with this package, or has a reason why not."""

import ast
import runpy
from pathlib import Path

from golden_run import GOLDEN, load_case

TESTS = ("test_golden", "test_golden_masks", "test_golden_quantization", "test_golden_recipes")
RUNS = ("gmp", "variants", "lr", "layers", "distill", "quant")
CASES = sorted(f"{group}/{path.stem}" for group in RUNS for path in GOLDEN.glob(f"{group}/*.json"))
# No recorded run is left out today; one that is would stand here with its reason.
NOT_REPLAYED: dict[str, str] = {}
# Files that are no runs, and who reads them.
OTHERS = {
    "README.md": "says what the others are",
    "batches.safetensors": "golden_run.py",
    "model_config.json": "golden_run.py",
    "model_student.safetensors": "golden_run.py",
    "model_teacher.safetensors": "golden_run.py",
    "masks/cases.json": "test_golden_masks.py",
    "masks/tensors.safetensors": "test_golden_masks.py",
    "recipes/recipes.json": "test_golden_recipes.py",
    "recipes/compose_staged.yaml": "test_golden_recipes.py",
    "flags.json": "../test_run_qa.py",
    "sparseml.json": "../test_coming_from_sparseml.py",
    "seqeval.json": "../tasks/token_classification/test_metrics.py",
    "saved/config.json": "../compat/test_sparseml_checkpoint.py",
    "saved/logits.json": "../compat/test_sparseml_checkpoint.py",
    "saved/pytorch_model.bin": "../compat/test_sparseml_checkpoint.py",
    "saved/recipe.yaml": "../compat/test_sparseml_checkpoint.py",
}
COMPARED = (
    {"recipe", "optimizer", "steps", "steps_per_epoch", "max_epochs", "setup_error", "mask_param_order"}
    | {"module_list_types", "state_dict_keys", "fake_quant_snapshots", "eval_batch0", "T1.0", "T2.0"}
    | {f"{who}_{end}_logits" for who in ("student", "teacher") for end in ("start", "end")}
)
NOT_COMPARED = {
    "name": "the file's",
    "recipe_args": "there were none",
    "student_loss": "the first task_loss of the runs",
    "weight_zero_after_finalize": "the zeros of the last step by name: its masks and weights are compared",
    "module_tree": "SparseML's wrappers, which are not here",
    "n_state_keys": "likewise; compat/test_sparseml_checkpoint.py reads the keys themselves",
    "num_hidden_layers_config": "the number of layers before any was dropped",
    "saved_keys": "those of state_dict_keys",
    "saved_config": "with the wrong number of layers",
    "plain_reload_max_logit_diff": "what the random layers do that plain Transformers puts in place of dropped ones",
    "plain_reload_loading_info": "what plain Transformers misses in SparseML's checkpoint; in ours it misses nothing",
}


def replayed() -> set[str]:
    """Cases that the tests name: as a parameter, or in their text."""
    names = set()
    for path in (Path(__file__).parent / f"{name}.py" for name in TESTS):
        for test in runpy.run_path(str(path)).values():
            for mark in getattr(test, "pytestmark", ()):
                if mark.name == "parametrize":
                    names |= {value for value in mark.args[1] if isinstance(value, str)}
        tree = ast.parse(path.read_text())
        names |= {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
    return names


def test_every_recorded_run_is_replayed_or_there_is_a_reason():
    found = replayed()
    for case in CASES:
        assert (case in found) != (case in NOT_REPLAYED), f"{case}: replay it, or say in NOT_REPLAYED why not"
    assert set(NOT_REPLAYED) <= set(CASES)
    assert len(CASES) > 50


def test_every_file_is_read_by_somebody():
    for path in sorted(path for path in GOLDEN.rglob("*") if path.is_file()):
        name = str(path.relative_to(GOLDEN))
        assert (
            name in OTHERS
            or name.removesuffix(".json") in CASES
            or any(name in (f"{case}.masks.npz", f"{case}.final.safetensors") for case in CASES)
        ), f"{name}: nobody reads it"
    for name, reader in OTHERS.items():
        assert (GOLDEN / name).is_file(), name
        if reader.endswith(".py"):
            assert Path(name).stem in (Path(__file__).parent / reader).read_text(), f"{reader} does not read {name}"


def test_everything_recorded_of_a_run_is_compared_or_there_is_a_reason():
    for case in CASES:
        for key in load_case(case):
            assert (key in COMPARED) != (key in NOT_COMPARED), f"{case}, {key}: compare it, or say why not"
