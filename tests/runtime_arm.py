"""Compile the kernels for aarch64, where a warning is an error, and run their tests in the emulator.

    python tests/runtime_arm.py

It needs a cross compiler and the user-mode emulator: on Debian the packages g++-aarch64-linux-gnu and qemu-user.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers.runtime_driver import build_driver, check_output

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"


def main() -> None:
    """Build the driver, run it, and say which kernels it has run."""
    missing = [name for name in (COMPILER, EMULATOR) if shutil.which(name) is None]
    if missing:
        sys.exit(f"tests/runtime_arm.py: no {' and no '.join(missing)}: apt install g++-aarch64-linux-gnu qemu-user")
    with tempfile.TemporaryDirectory() as folder:
        flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-static"]
        program = build_driver([COMPILER], Path(folder), flags)
        result = subprocess.run([EMULATOR, str(program)], capture_output=True, text=True, check=False)
    if result.returncode:
        sys.exit(f"tests/runtime_arm.py: {result.stdout}{result.stderr}")
    check_output(result.stdout)
    print(f"kernels for aarch64: {result.stdout.strip()}")


if __name__ == "__main__":
    main()
