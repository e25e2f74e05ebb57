"""The program that runs the kernels over random and hostile input."""

import subprocess
from collections.abc import Sequence
from pathlib import Path

from helpers import ROOT
from sparsification.runtime.build import FLAGS, WEIGHTS, compile_sources

DRIVER = ROOT / "tests" / "runtime_driver.cpp"


def build_driver(compiler: Sequence[str], folder: Path, changes: Sequence[str]) -> Path:
    """Compile and link the driver.

    Args:
        compiler: its command.
        folder: for the objects and the program.
        changes: flags in place of the optimization and the silence about warnings.
    """
    flags = [*(flag for flag in FLAGS if flag not in ("-O3", "-w")), *changes]
    made = compile_sources(compiler, folder, flags, *WEIGHTS, str(DRIVER))
    program = folder / "driver"
    link = [*compiler, *flags, *map(str, made), "-o", str(program), "-lstdc++", "-lm"]
    subprocess.run(link, check=True, capture_output=True)
    return program


def check_output(output: str) -> None:
    """All cases of the driver are right, and weights that are not are refused."""
    word, refused, *names = output.split()
    assert word == "ok", output
    assert int(refused) > 100 and "plain" in names, output
