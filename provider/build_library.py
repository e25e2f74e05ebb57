"""Build of the provider's library: ``python provider/build_library.py``, in an environment with ``sparsification``.

The kernels and the code that packs weights are those of ``sparsification/runtime/csrc``, compiled with the same flags
for the same instruction sets. The variable KERNEL_CXX names another compiler for the kernels: Zig's makes a library for
old versions of glibc, but its kernels take twice as long as GCC's, which use nothing of glibc but memcpy, memset and
sqrtf.
"""

import os
import re
import shlex
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from onnxruntime_ep_sparse import get_library_path
from sparsification.atomic_io import atomic_path
from sparsification.runtime.build import FLAGS, LAYERS, WEIGHTS, compile_sources, find_compiler, link_library

FOLDER = Path(__file__).resolve().parent
SOURCES = FOLDER / "csrc"
# Nothing but the functions that ONNX Runtime looks for is visible, least of all templates of the C++ runtime.
_EXPORTS = f"-Wl,--version-script={SOURCES / 'exports.map'}"

# Zig's libraries do not run their destructors when they are unloaded, but when the process ends: it would crash then.
_STAYS = "-Wl,-z,nodelete"


def library_path() -> Path:
    """File of the library in the package."""
    return Path(get_library_path())


def libraries(compiler: Sequence[str]) -> list[str]:
    """What the library is linked with: on Linux, the C++ runtime statically; the wheel needs glibc alone.

    Args:
        compiler: its command. Zig's links its own C++ runtime statically by itself.
    """
    if sys.platform != "linux":
        return ["-lc++"] if sys.platform == "darwin" else ["-s"]
    static = [] if "zig" in " ".join(compiler) else ["-static-libgcc", "-static-libstdc++", "-l:libstdc++.a"]
    return [*static, "-lm", "-s", _EXPORTS, _STAYS]


def package_version() -> str:
    """Version in ``pyproject.toml``."""
    found = re.search(r'^version = "(.+)"', (FOLDER / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def build() -> Path:
    """Compile the library into the package.

    Raises:
        BuildError: there is no compiler, or it failed.
    """
    compiler = find_compiler()
    own = sorted(str(path) for path in SOURCES.glob("*.cpp"))
    flags = [*FLAGS, f'-DPROVIDER_VERSION="{package_version()}"']
    with tempfile.TemporaryDirectory() as scratch:
        kernel_compiler = shlex.split(os.environ.get("KERNEL_CXX", ""))
        made = compile_sources(compiler, Path(scratch), flags, *WEIGHTS, *LAYERS, *own, kernel_compiler=kernel_compiler)
        with atomic_path(library_path()) as library:
            link_library(compiler, made, library, libraries(compiler))
    return library_path()


if __name__ == "__main__":
    print(build())
