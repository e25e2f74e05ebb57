"""The public API of the package: lazy, complete, and its docstring examples run."""

import doctest
import subprocess
import sys

import pytest

import sparsification
from helpers import ROOT
from helpers.processes import run
from sparsification.plain_loop import PlainLoop

NAMES = [name for name in sparsification.__all__ if name != "__version__"]


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def examples(subject: object, name: str) -> list[doctest.DocTest]:
    found = doctest.DocTestFinder(recurse=False).find(subject, name, globs={})
    return [test for test in found if test.examples]


SUBJECTS = {name: getattr(sparsification, name) for name in NAMES} | {"PlainLoop": PlainLoop, "package": sparsification}
WITH_EXAMPLES = [name for name, subject in SUBJECTS.items() if examples(subject, name)]


def test_importing_the_package_imports_neither_torch_nor_transformers():
    heavy = "{'torch', 'transformers', 'numpy', 'onnx', 'onnxruntime', 'datasets', 'wandb'}"
    assert run_python(f"import sys, sparsification; print({heavy} & set(sys.modules))") == "set()"


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_that_of_its_module(name):
    found = getattr(sparsification, name)
    assert callable(found)
    assert found.__module__.startswith("sparsification.")
    assert found.__name__ == name
    assert found is getattr(sparsification, name)


def test_star_import_and_dir_give_every_public_name():
    assert set(sparsification.__all__) <= set(dir(sparsification))
    ((status, printed),) = run(import_star, folder=ROOT)
    assert status == 0, printed


def import_star() -> None:
    names: dict[str, object] = {}
    exec("from sparsification import *", names)
    assert set(sparsification.__all__) <= set(names)


def test_the_type_checkers_imports_are_those_at_run_time():
    lines = [line.split() for line in (ROOT / "sparsification/__init__.py").read_text().splitlines()]
    told = {line[5]: (line[1], line[3]) for line in lines if line[:1] == ["from"] and line[4:5] == ["as"]}
    found = {name: getattr(sparsification, name) for name in told}
    assert sorted(told) == sorted(NAMES)
    assert {name: (item.__module__, item.__name__) for name, item in found.items()} == told


def test_a_name_that_the_package_does_not_have_is_refused_as_in_any_module():
    with pytest.raises(AttributeError, match="module 'sparsification' has no attribute 'load_recipes'"):
        _ = sparsification.load_recipes


def test_where_a_user_starts_there_is_an_example():
    assert {"package", "SparseTrainer", "PlainLoop"} <= set(WITH_EXAMPLES)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_an_example_in_a_docstring_gives_what_it_says(name):
    for test in examples(SUBJECTS[name], name):
        results = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS).run(test)
        assert results.failed == 0
        assert results.attempted == len(test.examples)
