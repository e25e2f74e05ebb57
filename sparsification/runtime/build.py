"""Build of the library of sparse operators: ``python -m sparsification.runtime.build`` compiles it, once.

The sources are the C++ files in ``csrc/``; the compiler is what CXX or CC names, else GCC or Clang. ``kernels.cpp``
is compiled once for each instruction set of the machine that the compiler compiles for, with the flags below; the
library selects one when it is loaded. The name of the result contains a hash of the sources, the flags, and the
compiler's version and target. It is stored in ``build/`` beside this file if that is writable, else in the user's
cache.
"""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sparsification.atomic_io import atomic_path
from sparsification.errors import SparsificationError

PACKAGE = Path(__file__).resolve().parent
SOURCES = PACKAGE / "csrc"
WEIGHTS = ("cpu.cpp", "sparse_rows.cpp", "block_weight.cpp", "window_weight.cpp", "float_weight.cpp", "cost.cpp")
LAYERS = ("int8_linear.cpp", "float_layers.cpp")
OPERATORS = (
    "operators.cpp",
    "sparse_linear.cpp",
    "sparse_linear_float.cpp",
    "quantized_attention.cpp",
    "float_attention.cpp",
    "add_norm.cpp",
)
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-ffp-contract=off",  # the same bits from every instruction set
    "-w",  # GCC 12 warns of uninitialized variables in its own AVX-512 header
)
# Instruction sets that the kernels are compiled for, beside the plain one, by the macro of the machine that a compiler
# compiles for. Where a set stands twice, its flags have two spellings, of which the first that the compiler accepts is
# taken. A set without one is left out of the library.
_AVX512_VNNI = "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mfma".split()
VARIANTS = {
    "__x86_64__": [
        ("avx512_vbmi", [*_AVX512_VNNI, "-mavx512vbmi"]),
        ("avx512_vnni", _AVX512_VNNI),
        ("avx_vnni", "-mavx2 -mfma -mavxvnni".split()),
        ("avx2", "-mavx2 -mfma".split()),
    ],
    "__aarch64__": [
        ("dotprod", ["-march=armv8.2-a+dotprod"]),
        ("dotprod", ["-mcpu=generic+v8_2a+dotprod"]),  # Zig
    ],
}


class BuildError(SparsificationError, RuntimeError):
    """There is no compiler, or it failed."""


def find_compiler(environment: Mapping[str, str] = os.environ) -> list[str]:
    """The C++ compiler's command.

    Raises:
        BuildError: there is none.
    """
    for variable, names in (("CXX", ()), ("CC", ()), ("", ("c++", "g++", "clang++"))):
        for command in (shlex.split(environment.get(variable, "")), *([name] for name in names)):
            if command and shutil.which(command[0], path=environment.get("PATH", "")):
                return command
    raise BuildError(
        "the sparse runtime needs a C++ compiler once, and there is none: install g++ or clang, or set CXX. "
        "Everything else works without it."
    )


def library_path(compiler: Sequence[str]) -> Path:
    """File of the library for the current sources, flags and compiler, whether it exists or not."""
    parts = [_predefined_macros(compiler), shlex.join(compiler), repr((FLAGS, VARIANTS))]
    parts += [f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in _files()]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    suffix = ".dylib" if sys.platform == "darwin" else ".so"
    return _folder() / f"sparse-{digest}{suffix}"


def build(force: bool = False) -> Path:
    """Compile the library, unless there is one for the current sources, flags and compiler.

    Args:
        force: compile it in any case.

    Returns:
        The library's file.

    Raises:
        BuildError: there is no compiler, or it failed; the message contains its output.
    """
    compiler = find_compiler()
    path = library_path(compiler)
    if path.exists() and not force:
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    # Several processes may build at the same time: each in a directory of its own; the last rename wins.
    with tempfile.TemporaryDirectory(prefix=".build-", dir=path.parent) as scratch:
        made = compile_sources(compiler, Path(scratch), FLAGS, *WEIGHTS, *LAYERS, *OPERATORS)
        with atomic_path(path) as library:
            link_library(compiler, made, library)
    for old in path.parent.glob(f"sparse-*{path.suffix}"):
        if old != path:
            old.unlink(missing_ok=True)
    return path


def available_kernels() -> list[str]:
    """Names of the kernels that run on this CPU, the fastest first.

    Raises:
        BuildError: there is no compiler for the operators, or it failed.
    """
    library = ctypes.CDLL(str(build()))
    library.sparsification_available_kernels.restype = ctypes.c_char_p
    return library.sparsification_available_kernels().decode().split()


def compile_sources(
    compiler: Sequence[str],
    folder: Path,
    flags: Sequence[str],
    *names: str,
    kernel_compiler: Sequence[str] = (),
) -> list[Path]:
    """Compile the kernels for each instruction set, and the other files.

    Args:
        compiler: its command.
        folder: directory for the object files.
        flags: for all files.
        names: the other files, relative to ``csrc/`` or absolute.
        kernel_compiler: another command for the kernels, which use nothing of C++'s runtime.

    Returns:
        The object files.

    Raises:
        BuildError: the compiler failed.
    """
    kernel_compiler = kernel_compiler or compiler
    variants: dict[str, list[str]] = {"plain": []}
    macros = _predefined_macros(kernel_compiler)
    for name, extra in next((sets for macro, sets in VARIANTS.items() if f"#define {macro} " in macros), []):
        probe = [*kernel_compiler, *extra, "-x", "c++", "-E", os.devnull]
        if name not in variants and subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            variants[name] = extra
    have = [f"-DHAVE_{name}" for name in variants]
    kernels = SOURCES / "kernels.cpp"
    jobs = [(kernel_compiler, kernels, [f"-DVARIANT={name}", *extra], name) for name, extra in variants.items()]
    jobs += [(compiler, SOURCES / name, have, Path(name).stem) for name in names]

    def compile_one(job: tuple[Sequence[str], Path, list[str], str]) -> Path:
        command, source, extra, name = job
        made = folder / f"{name}.o"
        command = [*command, *flags, *extra, f"-I{SOURCES}", "-c", str(source), "-o", str(made)]
        _run(command)
        return made

    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(compile_one, jobs))


def link_library(
    compiler: Sequence[str], objects: Sequence[Path], library: Path, libraries: Sequence[str] = ("-lstdc++", "-lm")
) -> None:
    """Link object files as a shared library.

    Args:
        compiler: its command.
        objects: what ``compile_sources`` returned.
        library: the file to write.
        libraries: what to link with; a C compiler that CC names does not link C++ by itself.

    Raises:
        BuildError: the compiler failed.
    """
    _run([*compiler, "-shared", *FLAGS, *map(str, objects), "-o", str(library), *libraries])


def _predefined_macros(compiler: Sequence[str]) -> str:
    """What a compiler defines by itself, a line for each macro: its version, and the machine that it compiles for."""
    command = [*compiler, "-x", "c++", "-dM", "-E", os.devnull]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _files() -> list[Path]:
    return sorted(path for path in SOURCES.iterdir() if path.suffix in (".h", ".cpp"))


def _folder() -> Path:
    beside = PACKAGE / "build"
    if beside.is_dir() or os.access(PACKAGE, os.W_OK):
        return beside
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsification-runtime"


def _run(command: Sequence[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BuildError(f"the sparse runtime did not build: {shlex.join(command)}\n{result.stderr.strip()}")


def main() -> int:
    """Build the library and print its file."""
    try:
        print(build())
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
