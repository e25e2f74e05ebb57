"""Is a standard file with the execution provider as fast as the file with sparse operators of its own?

    make bench-provider, or python -m benchmarks.provider_speed --work_dir DIR

The models are those of ``benchmarks/session_creation.py``. The CPU provider, the execution provider and
``model.sparse.onnx`` with the library of sparse operators take turns, batch 1 on one thread, processor time.
"""

import argparse
from datetime import date
from functools import partial
from pathlib import Path

import onnxruntime

import onnxruntime_ep_sparse as sparse
from benchmarks.session_creation import ROOT, make_files
from benchmarks.sparse_runtime import SHAPES, VOCABULARY, sparse_file
from sparsification.plan.model_files import random_inputs
from sparsification.plan.timing import take_turns
from sparsification.report.environment import cpu_name
from sparsification.runtime.build import build

LENGTHS = (128, 384)
ROUNDS, SECONDS = 5, 0.5  # of a model in a round


def main() -> None:
    """Time the sessions, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work_dir", type=Path, required=True, help="for the models")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "provider_speed.md")
    args = parser.parse_args()
    lines = [line for shape in args.shapes for line in study(shape, args.work_dir / shape)]
    args.output.write_text(report(lines), encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"))


def study(shape: str, folder: Path) -> list[str]:
    """Rows of the table of one model."""
    lines = []
    for option, path in make_files(shape, folder):
        own = folder / str(option)
        own.mkdir(exist_ok=True)
        if not (own / "model.onnx").exists():
            (own / "model.onnx").symlink_to(path.resolve())
        sessions = [
            session(path, onnxruntime.SessionOptions()),
            session(path, sparse.session_options()),
            session(sparse_file(own / "model.onnx"), with_operators()),
        ]
        for length in LENGTHS:
            runs = [partial(one.run, None, random_inputs(one, 1, length, VOCABULARY)) for one in sessions]
            dense, provider, operators = take_turns(runs, ROUNDS, SECONDS)
            lines.append(
                f"| {shape} | {option} | {length} | {dense:.2f} | {provider:.2f} | {operators:.2f} "
                f"| {dense / provider:.2f}x | {operators / provider:.2f}x |"
            )
            print(lines[-1], flush=True)
    return lines


def with_operators() -> onnxruntime.SessionOptions:
    """Options of a session that loads the sparse operators."""
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(build()))
    return options


def session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    """A session on one thread; ONNX Runtime ignores the list of providers where the options name one."""
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(path, options)


def report(lines: list[str]) -> str:
    """The page."""
    head = [
        "# Speed with the execution provider",
        "",
        f"{date.today()}, batch 1, one thread on {cpu_name()}; ONNX Runtime {onnxruntime.__version__}. Milliseconds of "
        f"processor time, medians of {ROUNDS} rounds in which the three sessions take turns. The aim is 0.9 of the "
        "speed of `model.sparse.onnx`. Made by `make bench-provider`.",
        "",
        "| model | linear layers | tokens | CPU provider | execution provider | `model.sparse.onnx` | to the first "
        "| to `model.sparse.onnx` |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*head, *lines]) + "\n"


if __name__ == "__main__":
    main()
