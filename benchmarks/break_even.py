"""From how many zeros on is our product of a layer faster than ONNX Runtime's dense int8 one?

    make bench-break-even, or python -m benchmarks.break_even

One Linear layer at a time, integers in and numbers out, as in an exported model; ``rewrite_sparse`` makes it sparse.
The dense layer and the sparse ones of all shares take turns in one process on one thread, and medians of its processor
time are compared. Minutes. ``convert.BREAK_EVEN`` is what this says; unstructured zeros count by the blocks that they
leave.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from sparsification.report.environment import cpu_name
from sparsification.runtime import load_session
from sparsification.runtime.rewrite import BREAK_EVEN, rewrite_sparse
from sparsification.runtime.rewrite.linear import BLOCK

ROOT = Path(__file__).resolve().parent.parent
LAYERS = ((768, 3072), (3072, 768), (768, 768), (384, 1536))  # inputs, outputs: of BERT base and MiniLM
TOKENS = (128, 384)
SHARES = tuple(round(0.1 * tenth, 1) for tenth in range(1, 11))


def main() -> None:
    """Time all layers, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="of one layer in one round")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "break_even.md")
    args = parser.parse_args()
    results = {
        "date": str(date.today()),
        "cpu": cpu_name(),
        "onnxruntime": onnxruntime.__version__,
        "rounds": args.rounds,
        "cells": [],
    }
    for inputs, outputs in LAYERS:
        with tempfile.TemporaryDirectory() as scratch:
            paths = write_layers(inputs, outputs, Path(scratch))
            sessions = [load_session(path, threads=1) for path in paths]
        for tokens in TOKENS:
            dense, *sparse = measure(sessions, tokens, inputs, args.rounds, args.seconds)
            cell = {"inputs": inputs, "outputs": outputs, "tokens": tokens, "dense": dense, "sparse": sparse}
            results["cells"].append(cell | {"break_even": break_even(dense, sparse)})
            args.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            args.output.write_text(report(results), encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"))


def write_layers(inputs: int, outputs: int, folder: Path) -> list[Path]:
    """Write a dense int8 layer, and one in sparse form for each share of its blocks."""
    generator = np.random.default_rng(0)
    weight = generator.integers(1, 128, (outputs, inputs)).astype(np.int8)
    rank = generator.random((outputs, inputs // BLOCK)).argsort(axis=None).argsort().reshape(outputs, -1)
    paths = [write_layer(weight, folder / "dense.onnx")]
    for share in SHARES:
        keep = (rank < share * rank.size).repeat(BLOCK, axis=1)
        source = write_layer(weight * keep, folder / f"{share}.onnx")
        paths.append(rewrite_sparse(source, folder / f"{share}.sparse.onnx", break_even=1.0).path)
    return paths


def write_layer(weight: np.ndarray, path: Path) -> Path:
    """Write a layer of a weight [outputs, inputs] in the form of the project's export."""
    outputs, inputs = weight.shape
    arrays = {
        "x_scale": np.array(0.02, np.float32),
        "x_zero": np.array(128, np.uint8),
        "weight": np.ascontiguousarray(weight.T),
        "scale": np.full(outputs, 1e-4, np.float32),
        "zero": np.zeros(outputs, np.int8),
        "bias": np.zeros(outputs, np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["x", "x_scale", "x_zero"], ["x_numbers"]),
        helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["weight_numbers"], axis=1),
        helper.make_node("MatMul", ["x_numbers", "weight_numbers"], ["product"]),
        helper.make_node("Add", ["bias", "product"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["batch", "tokens", inputs])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "tokens", outputs])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8), path)
    return path


def measure(
    sessions: Sequence[onnxruntime.InferenceSession], tokens: int, inputs: int, rounds: int, seconds: float
) -> list[float]:
    """Median processor time of each in ms; they take turns."""
    feed = {"x": np.random.default_rng(1).integers(0, 256, (1, tokens, inputs)).astype(np.uint8)}
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for session, mine in zip(sessions, times, strict=True):
            session.run(None, feed)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.process_time()
                session.run(None, feed)
                mine.append(1000 * (time.process_time() - start))
    return [statistics.median(mine) for mine in times]


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
        f"{results['date']}, one thread on {results['cpu']}; ONNX Runtime {results['onnxruntime']}. Processor time of "
        f"one Linear layer in ms, medians over {results['rounds']} rounds in which all take turns. Made by "
        "`make bench-break-even`.",
        "",
        "The dense column is ONNX Runtime's int8 product, the others are ours with so many of the 1x4 blocks not zero; "
        "the last one is where both take the same time. `rewrite_sparse` makes a layer sparse up to "
        f"{BREAK_EVEN:.0%} of non-zero blocks.",
        "",
        "| tokens x inputs x outputs | dense | " + " | ".join(f"{share:.0%}" for share in SHARES) + " | break-even |",
        "|" + "---|" * (len(SHARES) + 3),
    ]
    for cell in results["cells"]:
        numbers = [f"{value:.3f}" for value in (cell["dense"], *cell["sparse"])]
        name = f"{cell['tokens']} x {cell['inputs']} x {cell['outputs']}"
        lines.append("| " + " | ".join([name, *numbers, f"{cell['break_even']:.0%}"]) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
