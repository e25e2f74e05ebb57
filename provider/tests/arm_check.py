"""Test the wheel for Linux aarch64 in an emulator, on each instruction set: ``arm_check.py ROOT WHEEL``.

It needs qemu-aarch64, on Debian in the package qemu-user. ROOT is a root file system of arm64 with /usr/bin/python3, as
``arm_root.sh`` makes it. pip downloads ONNX Runtime and what the tests need, in the versions of this environment. The
tests of random graphs and of registration run as they are. The others need torch: models are exported here, and there
compared with the CPU provider (``compare_models.py``), and damaged.
"""

import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np
from exported_models import make_files

from helpers import ROOT
from helpers.damaged_files import assert_survives

EMULATOR = "qemu-aarch64"
PACKAGES = ("onnxruntime", "numpy", "onnx", "safetensors", "pytest", "hypothesis")
PLATFORMS = [*(f"manylinux_2_{minor}_aarch64" for minor in range(28, 16, -1)), "manylinux2014_aarch64"]
TESTS = ROOT / "provider" / "tests"
# ONNX Runtime crashes if it finds an x86 CPU here. The emulator looks for each file below ROOT first.
CORE = "processor\t: {}\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: 0xd03\n\n"
# The emulated CPU, SPARSIFICATION_CPU, and the instruction set that has to be selected.
MACHINES = [("max", "", "dotprod"), ("max", "plain", "plain"), ("cortex-a53", "", "plain")]


def make_python(folder: Path, root: Path, cpu: str) -> Path:
    """A command that runs the Python of ``root`` on an emulated CPU; it also starts processes of this kind."""
    python = folder / f"python-{cpu}"
    command = [EMULATOR, "-cpu", cpu, "-L", str(root)]
    python.write_text(
        f"#!/bin/sh\nexport PYTHONHOME={shlex.quote(str(root / 'usr'))}\n"
        f'exec {shlex.join(command)} -0 "$0" {shlex.quote(str(root / "usr/bin/python3"))} "$@"\n',
        encoding="utf-8",
    )
    python.chmod(0o755)
    return python


def install(python: Path, wheel: Path, site: Path) -> None:
    """Install the wheel, and what the tests need, as pip would on such a machine."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    python_version = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary=:all:", f"--target={site}"]
    command += [*(f"--platform={platform}" for platform in PLATFORMS), f"--python-version={python_version}"]
    command += [*(f"{name}=={version(name)}" for name in PACKAGES), str(wheel)]
    subprocess.run(command, check=True)


def check(python: Path, site: Path, folder: Path, selection: str) -> tuple[str, dict[str, np.ndarray]]:
    """Run all tests on one CPU; returns the instruction set, and the provider's outputs for the exported models."""
    paths = [site, ROOT, ROOT / "tests", ROOT / "provider", TESTS]  # the wheel's package before provider/'s
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "SPARSIFICATION_CPU": selection,
    }

    def run(*arguments: str | Path) -> str:
        command = [str(part) for part in (python, *arguments)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
        print(result.stdout, end="", flush=True)
        if result.returncode:
            sys.exit(f"{shlex.join(command)} ended with status {result.returncode}")
        return result.stdout

    output = folder / "outputs.npz"
    name = run(TESTS / "compare_models.py", folder / "models", output).split()[0]
    tests = [TESTS / "test_graphs.py", TESTS / "test_registration.py"]
    # The project's settings, without its paths, which stand before those above.
    options = ["-q", f"--rootdir={ROOT}", "-o", "pythonpath=", "-p", "no:cacheprovider"]
    options.append(f"--basetemp={folder / 'pytest'}")
    run("-m", "pytest", *options, *tests)
    for seed in range(4):
        with tempfile.TemporaryDirectory(dir=folder) as damaged:
            assert_survives("provider", Path(damaged), seed, python, environment)
    print("damaged files: no crash", flush=True)
    return name, dict(np.load(output))


def main() -> None:
    """Check each machine, and that the instruction sets of one CPU give the same bits."""
    root, wheel = (Path(argument).resolve() for argument in sys.argv[1:])
    if shutil.which(EMULATOR) is None:
        sys.exit(f"provider/tests/arm_check.py: no {EMULATOR}: apt install qemu-user")
    (root / "proc").mkdir(exist_ok=True)
    cores = "".join(CORE.format(index) for index in range(os.cpu_count() or 1))
    (root / "proc" / "cpuinfo").write_text(cores, encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        logging.disable(logging.WARNING)  # of ONNX Runtime's tool of quantization
        install(make_python(folder, root, "max"), wheel, folder / "site")
        make_files(folder / "models")
        outputs = []
        for cpu, selection, expected in MACHINES:
            print(f"\n{cpu} {selection}", flush=True)
            found, values = check(make_python(folder, root, cpu), folder / "site", folder, selection)
            if found != expected:
                sys.exit(f"{cpu}: {found} was selected instead of {expected}")
            outputs.append(values)
    for key, value in outputs[0].items():
        np.testing.assert_array_equal(value, outputs[1][key], err_msg=key)
    print(f"\n{len(outputs[0])} outputs are equal bit by bit on {MACHINES[0][2]} and {MACHINES[1][2]}")


if __name__ == "__main__":
    main()
