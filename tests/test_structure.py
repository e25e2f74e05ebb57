"""Structure of the package and of the tests: imports, circles, lengths of files, who tests what."""

import ast
import graphlib
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from helpers import ROOT
from helpers.processes import run

PACKAGE = ROOT / "sparsification"
# From the bottom to the top. A module has the place of the longest name here that it begins with.
ORDER = [
    *("errors", "cpu", "atomic_io", "quiet", "model_io", "model_outputs", "logits", "saved_weights", "encoder"),
    *("targets", "samplers"),
    *("recipe.expressions", "recipe.types"),
    *("pruning.masks", "pruning.sparsity", "pruning.fisher", "pruning.reconstruction", "pruning.allocation"),
    *("schedule.curves", "quantization.fake_quantize", "quantization.scheme", "quantization.attention"),
    *("quantization.modules", "quantization.checkpoint", "base", "schedule", "pruning", "quantization"),
    "distillation",
    *(
        "modifiers",
        "recipe",
        "named_modifiers",
        "optimizer_hooks",
        "manager",
        "plain_loop",
        "runtime",
        "export",
        "check",
        "report",
        "trainer",
    ),
    *("compat", "arguments", "tasks", "plan", "cli"),
]
MAX_LINES = 300
REASON = "Longer than 300 lines: "  # then why, in the first lines of a file


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
# The public names, and the command: they stand above all others.
MODULES = {name: path for name, path in FILES.items() if name not in ("sparsification", "sparsification.__main__")}


def imports_of(path: Path, body: list[ast.AST] | None = None) -> Iterator[str]:
    """Modules that a file imports: anywhere in it, or in some of its statements."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if body is None else body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}, line {node.lineno}: imports are absolute here"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in FILES else node.module


def place(module: str) -> int:
    """Where a module stands in the order."""
    parts = module.split(".")[1:]
    names = [".".join(parts[:length]) for length in range(len(parts), 0, -1)]
    found = next((ORDER.index(name) for name in names if name in ORDER), None)
    assert found is not None, f"{module} has no place: name it, or its package, in ORDER"
    return found


def test_imports_point_downwards(subtests):
    for module in MODULES:
        with subtests.test(module):
            for other in imports_of(MODULES[module]):
                if other in MODULES:
                    assert place(other) <= place(module), f"{module} imports {other}, which stands above it"


def test_no_modules_import_each_other_in_a_circle():
    graph = {}
    for module, path in MODULES.items():
        body = ast.parse(path.read_text(encoding="utf-8")).body
        graph[module] = {other for other in imports_of(path, body) if other in MODULES and other != module}
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(MODULES)


def test_package_imports_no_script_and_nothing_else_of_this_repository():
    beside = {path.stem for path in ROOT.glob("*.py")}
    beside |= {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))} - {PACKAGE.name}
    assert {"run_qa", "sparse_trainer", "tests"} <= beside
    for path in FILES.values():
        assert not {name.split(".")[0] for name in imports_of(path)} & beside, path


def import_each_alone(names: list[str]) -> None:
    for name in names:
        for other in [other for other in sys.modules if other.split(".")[0] == "sparsification"]:
            del sys.modules[other]
        importlib.import_module(name)
        print(name)


def test_every_module_can_be_imported_first():
    ((status, printed),) = run(import_each_alone, list(MODULES), folder=ROOT)
    assert status == 0 and printed.split() == list(MODULES), printed


def test_file_is_short_or_says_why_not(subtests):
    for path in [path for pattern in ("*.py", "*.cpp", "*.h") for path in sorted(PACKAGE.rglob(pattern))]:
        name = path.relative_to(PACKAGE).as_posix()
        with subtests.test(name):
            lines = path.read_text(encoding="utf-8").splitlines()
            reason = re.search(re.escape(REASON) + r"\w+", "\n".join(lines[:12]))
            assert len(lines) <= MAX_LINES or reason, (
                f"{len(lines)} lines, {MAX_LINES} at most: cut it, or say {REASON!r}"
            )


def test_no_test_module_imports_another():
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for module in imports_of(path):
            name = module.split(".")[-1]
            assert not name.startswith("test_") and name != "conftest", f"{path} imports {module}: move it to helpers"


def test_every_module_has_a_test_file_of_its_name_or_a_reason():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("\n## Modules without a test file\n")[2]
    lines = [line for line in text.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    reasons = {name: reason for line in lines for name, reason in [line.strip("| ").split(" | ")]}
    untested = set()
    for path in FILES.values():
        place = path.relative_to(PACKAGE)
        if path.stem != "__init__" and not (ROOT / "tests" / place.parent / f"test_{place.stem}.py").is_file():
            untested.add(f"`{place.as_posix()}`")
    assert set(reasons) == untested, "a module needs a file of its name in tests/, or a row in CONTRIBUTING.md"
    assert all(len(reason.split()) > 3 for reason in reasons.values())
