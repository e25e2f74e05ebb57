"""From how many zeros on is our product of a layer faster than ONNX Runtime's dense one?

    make bench-break-even, or python -m benchmarks.break_even

One Linear layer at a time, integers in and numbers out, as in an exported model; ``rewrite_sparse`` makes it sparse.
The dense layer and the sparse ones of all shares, in 1x4 blocks and in single weights, take turns in one process on one
thread, and medians of its processor time are compared. Blocks are timed by the kernels without byte permutation, which
know no other form; windows where the CPU has them. From all cells come the constants of ``runtime/csrc/cost.cpp``, by
least squares. In fp32 the same layers of unstructured zeros are compared with the dense one in fp32;
``FLOAT_BREAK_EVEN`` is what that says. Minutes.
"""

import argparse
import ctypes
import json
import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime

from sparsification.cpu import weight_bits
from sparsification.plan.layer_files import write_float_layer, write_layer
from sparsification.plan.timing import take_turns
from sparsification.report.environment import cpu_name
from sparsification.report.tables import markdown
from sparsification.runtime import load_session
from sparsification.runtime.build import available_kernels, build
from sparsification.runtime.rewrite import FLOAT_BREAK_EVEN, rewrite_sparse
from sparsification.runtime.rewrite.cost import layer_cost
from sparsification.runtime.rewrite.linear import BLOCK

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ((768, 3072), (3072, 768), (768, 768), (384, 1536), (1536, 384), (384, 384))  # inputs, outputs
TOKENS = (128, 384)
SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)
FORMS = {"blocks": BLOCK, "windows": 1}  # adjacent weights that are kept or not together
WINDOWS = "avx512_vbmi"  # the kernels with windows


def main() -> None:
    """Time all layers, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.1, help="of one layer in one round")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "break_even.md")
    args = parser.parse_args()
    kernels = find_kernels()
    results = {
        "date": str(date.today()),
        "cpu": cpu_name(),
        "kernels": kernels,
        "onnxruntime": onnxruntime.__version__,
        "rounds": args.rounds,
        "cells": [],
    }
    for inputs, outputs in LAYERS:
        with tempfile.TemporaryDirectory() as scratch:
            sessions, work = make_layers(inputs, outputs, kernels, Path(scratch))
            float_sessions = make_float_layers(inputs, outputs, Path(scratch))
        for tokens in TOKENS:
            generator = np.random.default_rng(1)
            x = generator.integers(0, 256, (1, tokens, inputs)).astype(np.uint8)
            dense, *sparse = measure(sessions, x, args.rounds, args.seconds)
            cell = {"inputs": inputs, "outputs": outputs, "tokens": tokens, "dense": dense}
            for index, form in enumerate(kernels):
                times = sparse[index * len(SHARES) : (index + 1) * len(SHARES)]
                cell[form] = {"times": times, "work": work[form], "break_even": break_even(dense, times)}
            x = generator.normal(size=(1, tokens, inputs)).astype(np.float32)
            float_dense, *times = measure(float_sessions, x, args.rounds, args.seconds)
            cell["fp32"] = {"dense": float_dense, "times": times, "break_even": break_even(float_dense, times)}
            results["cells"].append(cell)
            results["constants"] = fit(results["cells"])
            args.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            args.output.write_text(report(results), encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"))


def find_kernels() -> dict[str, str]:
    """The kernels that time each form: the fastest of this CPU that have it."""
    names = available_kernels()
    blocks = next(name for name in names if name != WINDOWS)
    return {"blocks": blocks} | ({"windows": WINDOWS} if WINDOWS in names else {})


def make_layers(
    inputs: int, outputs: int, kernels: Mapping[str, str], folder: Path
) -> tuple[list[onnxruntime.InferenceSession], dict[str, list[int]]]:
    """A dense int8 layer, and sparse ones for each form and share; and the work of each sparse one, by form."""
    generator = np.random.default_rng(0)
    weight = generator.integers(1, 2 ** (weight_bits() - 1), (outputs, inputs)).astype(np.int8)
    sessions, work = [load_session(write_layer(weight, folder / "dense.onnx"), threads=1)], {}
    library = ctypes.CDLL(str(build()))
    for form, name in kernels.items():
        library.sparsification_select_kernels(name.encode())
        width = FORMS[form]
        rank = generator.random((outputs, inputs // width)).argsort(axis=None).argsort().reshape(outputs, -1)
        work[form] = []
        for share in SHARES:
            kept = weight * (rank < share * rank.size).repeat(width, axis=1)
            source = write_layer(kept, folder / f"{form}.{share}.onnx")
            path = rewrite_sparse(source, folder / f"{form}.{share}.sparse.onnx", always=True).path
            sessions.append(load_session(path, threads=1))
            work[form].append(getattr(layer_cost(kept)[0], form))
    return sessions, work


def make_float_layers(inputs: int, outputs: int, folder: Path) -> list[onnxruntime.InferenceSession]:
    """A dense fp32 layer, and a sparse one for each share of unstructured weights."""
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(outputs, inputs)).astype(np.float32)
    rank = generator.random(weight.shape)
    sessions = [load_session(write_float_layer(weight, folder / "float.onnx"), threads=1)]
    for share in SHARES:
        source = write_float_layer(weight * (rank < share), folder / f"float.{share}.onnx")
        path = rewrite_sparse(source, folder / f"float.{share}.sparse.onnx", always=True).path
        sessions.append(load_session(path, threads=1))
    return sessions


def fit(cells: Sequence[dict]) -> dict[str, dict[str, float]]:
    """Nanoseconds of a token by form: for each weight of the dense product; for each block or step, and each output."""
    constants = {}
    rows = {
        "dense": [
            (cell["inputs"] * cell["outputs"], cell["outputs"], 1e6 * cell["dense"] / cell["tokens"]) for cell in cells
        ]
    }
    for form in [form for form in FORMS if form in cells[0]]:
        rows[form] = [
            (work, cell["outputs"], 1e6 * milliseconds / cell["tokens"])
            for cell in cells
            for work, milliseconds in zip(cell[form]["work"], cell[form]["times"], strict=True)
        ]
    for form, numbers in rows.items():
        table = np.array(numbers)
        # Relative errors: a small layer counts as much as a large one.
        solution, *_ = np.linalg.lstsq(table[:, :2] / table[:, 2:], np.ones(len(table)), rcond=None)
        errors = np.abs(table[:, :2] @ solution / table[:, 2] - 1)
        constants[form] = {"unit": solution[0], "output": solution[1], "median_error": float(np.median(errors))}
    return constants


def measure(
    sessions: Sequence[onnxruntime.InferenceSession], x: np.ndarray, rounds: int, seconds: float
) -> list[float]:
    """Median processor time of each in ms on the same input; they take turns."""
    return take_turns([partial(session.run, None, {"x": x}) for session in sessions], rounds, seconds)


def break_even(dense: float, sparse: Sequence[float]) -> float:
    """The share of non-zero blocks at which the sparse layer takes as long as the dense one, between two measured."""
    if sparse[0] > dense:
        return 0.0
    for (low, before), (high, after) in zip(
        zip(SHARES, sparse, strict=True), zip(SHARES[1:], sparse[1:], strict=True), strict=False
    ):
        if before <= dense < after:
            return low + (high - low) * (dense - before) / (after - before)
    return 1.0


def report(results: dict) -> str:
    """The results as Markdown."""
    lines = [
        "# From how many zeros on a sparse layer is faster",
        "",
        f"{results['date']}, one thread on {results['cpu']}, kernels of {' and '.join(results['kernels'].values())}; "
        f"ONNX Runtime {results['onnxruntime']}. Processor time of one Linear layer in ms, medians over "
        f"{results['rounds']} rounds in which all take turns. Made by `make bench-break-even`.",
        "",
        "The dense column is ONNX Runtime's product, the others are ours with so many of the 1x4 blocks, or of "
        "the single weights, not zero; the last one is where both take the same time.",
    ]
    titles = {
        "blocks": "int8, 1x4 blocks",
        "windows": "int8, unstructured",
        "fp32": f"fp32, unstructured: sparse up to {FLOAT_BREAK_EVEN:.0%}",
    }
    for form, title in titles.items():
        if form not in results["cells"][0]:
            continue
        rows = []
        for cell in results["cells"]:
            dense = cell[form].get("dense", cell["dense"])
            numbers = [f"{value:.3f}" for value in (dense, *cell[form]["times"])]
            name = f"{cell['tokens']} x {cell['inputs']} x {cell['outputs']}"
            even = cell[form]["break_even"]
            rows.append([name, *numbers, f"{even:.0%}" if even < 1 else f"above {SHARES[-1]:.0%}"])
        heads = ["tokens x inputs x outputs", "dense", *(f"{share:.0%}" for share in SHARES), "break-even"]
        lines += ["", f"## {title}", "", markdown((heads, rows))]
    constants = [
        [form, f"{one['unit']:.5f}", f"{one['output']:.3f}", f"{one['median_error']:.0%}"]
        for form, one in results["constants"].items()
    ]
    lines += [
        "",
        "## Constants of the cost model",
        "",
        "Nanoseconds of a token; `runtime/csrc/cost.cpp` has them.",
        "",
        markdown((["form", "each weight, block or step", "each output", "median error"], constants)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
