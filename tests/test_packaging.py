"""What ``pip install .`` installs: the package with the runtime's sources, and the command ``sparsification``."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import sparsification
from helpers import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCE_SUFFIXES = {".py", ".typed", ".cpp", ".h"}


def requirements(lines: list[str]) -> dict[str, Requirement]:
    parsed = [Requirement(line) for line in lines if line and not line.startswith(("#", "-"))]
    return {item.name: item for item in parsed}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, so that no build folder stays in the tree."""
    source = tmp_path_factory.mktemp("source") / "project"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "sparsification", source / "sparsification", ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, source)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel alone into a folder; the packages that it needs are those of this environment."""
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--no-deps", "--no-index", "--target", target, wheel)
    return target


def pip(*arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def command(installed: Path, folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess:
    """Run the installed console command in a folder that is not the checkout."""
    return subprocess.run(
        [sys.executable, installed / "bin" / "sparsification", *arguments],
        env=os.environ | {"PYTHONPATH": str(installed)},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_every_source_file_of_the_package_and_no_other_top_level_name(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = {
        str(path.relative_to(ROOT)) for path in (ROOT / "sparsification").rglob("*") if path.suffix in SOURCE_SUFFIXES
    }
    assert names == sources
    assert "sparsification/py.typed" in names
    assert any(name.endswith("operators.cpp") for name in names)


def test_the_wheel_has_the_version_and_the_licence_of_the_package(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    assert f"\nVersion: {sparsification.__version__}\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata
    assert {line.split("; ")[0] for line in re.findall("^Requires-Dist: (.*)$", metadata, re.M)} >= {"numpy>=2"}


def test_the_installed_package_is_imported_from_another_folder(installed, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import sparsification as s; print(s.__file__, s.load_recipe.__name__)"],
        env=os.environ | {"PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [str(installed / "sparsification" / "__init__.py"), "load_recipe"]


def test_help_shows_the_command_as_it_was_called(installed, tmp_path):
    script = command(installed, tmp_path, "check", "--help")
    module = subprocess.run(
        [sys.executable, "-m", "sparsification", "check", "--help"],
        env=os.environ | {"PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert script.stdout.startswith("usage: sparsification check ")
    assert module.stdout.startswith("usage: python -m sparsification check ")


def test_the_installed_command_checks_a_recipe(installed, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("modifiers:\n  - !EpochRangeModifier {end_epoch: 2.0}\n")
    assert command(installed, tmp_path, "check", "recipe.yaml").returncode == 0
    recipe.write_text("modifiers:\n  - !EpochRangeModifier {end_epok: 2.0}\n")
    wrong = command(installed, tmp_path, "check", "recipe.yaml")
    assert wrong.returncode == 1
    assert "did you mean 'end_epoch'?" in wrong.stderr


def test_the_installed_command_predicts_with_a_saved_model(installed, tmp_path, tiny_model_dir):
    done = command(
        installed, tmp_path, "predict", tiny_model_dir, "--question", "What?", "--context", "Oslo is a capital."
    )
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = done.stdout.splitlines()
    assert "%, characters " in line


@pytest.mark.parametrize("arguments", [["convert", "none", "out"], ["compare", "none"]])
def test_the_installed_command_says_what_a_missing_folder_is_missing(installed, tmp_path, arguments):
    done = command(installed, tmp_path, *arguments)
    assert done.returncode == 1
    assert "none" in done.stderr
    assert "Traceback" not in done.stderr


def test_requirements_txt_is_the_dependencies_and_wandb_each_within_its_range():
    pinned = requirements((ROOT / "requirements.txt").read_text().splitlines())
    ranges = requirements(PROJECT["dependencies"])
    assert pinned.keys() == ranges.keys() | {"wandb"}  # the dashboard of the recipes' users; optional for the library
    for name, item in ranges.items():
        bounds = [clause.version for clause in pinned[name].specifier if clause.operator in ("==", ">=")]
        assert all(item.specifier.contains(Version(bound)) for bound in bounds), name


def test_the_dev_extra_is_what_the_makefile_installs_for_tests():
    lines = [line.partition("#")[0].strip() for line in (ROOT / "tests" / "requirements.txt").read_text().splitlines()]
    extra = requirements(PROJECT["optional-dependencies"]["dev"])
    assert {str(item) for item in requirements(lines).values()} | {"wandb>=0.31"} == {str(v) for v in extra.values()}
