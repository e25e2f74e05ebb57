"""What does it take to create a session with the execution provider, and with the CPU provider alone?

    make bench-creation, or python -m benchmarks.session_creation --work_dir DIR

Models are pruned by magnitude, in int8 with 7-bit weights on CPUs without VNNI. Each session is created on one thread
by a process of its own, the two kinds in turns. Medians of the processor time are compared, and of the memory by which
the process grows, at its peak and afterwards (Linux).
"""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from transformers import BertTokenizerFast

import onnxruntime_ep_sparse as sparse
from benchmarks.sparse_runtime import SHAPES, make_model
from sparsification.plan.calibration import as_batches
from sparsification.plan.model_files import ModelFiles, marked_layers, zero
from sparsification.plan.units import BLOCKS, UNSTRUCTURED, Option, find_units
from sparsification.report.environment import cpu_name
from sparsification.report.tables import markdown

ROOT = Path(__file__).resolve().parent.parent
OPTIONS = [
    *(Option("int8", pattern, sparsity) for pattern in (UNSTRUCTURED, BLOCKS) for sparsity in (0.8, 0.9)),
    Option("fp32", UNSTRUCTURED, 0.9),
]
ROUNDS = 7
TOKENS = 16  # of the text that ranges are found with


def main() -> None:
    """Create the sessions, and write the table."""
    run_study(__doc__, "session_creation.md", study, report)


def run_study(doc: str, page: str, study: Callable[[str, Path], list[str]], report: Callable[[list[str]], str]) -> None:
    """Study the models that the command line names, and write the page.

    Args:
        doc: docstring of the study.
        page: its file, beside this one.
        study: makes the rows of a shape; takes the shape, and a folder for its models.
        report: makes the page of all rows.
    """
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--work_dir", type=Path, required=True, help="for the models")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / page)
    args = parser.parse_args()
    rows = [row for shape in args.shapes for row in study(shape, args.work_dir / shape)]
    args.output.write_text(report(rows), encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"))


def study(shape: str, folder: Path) -> list[list[str]]:
    """Rows of the table of one model."""
    rows = []
    for option, path in make_files(shape, folder):
        rounds = [[create(path, provider) for provider in ("cpu", "provider")] for _ in range(ROUNDS)]
        pairs = zip(*np.median(rounds, axis=0), strict=True)
        cells = [cell for cpu, own in pairs for cell in (f"{cpu:.0f}", f"{own:.0f}", f"{own / cpu:.2f}x")]
        rows.append([shape, str(option), *cells])
        print(*rows[-1], flush=True)
    return rows


def make_files(shape: str, folder: Path) -> Iterator[tuple[Option, Path]]:
    """Write a pruned model for each option, unless it is there.

    Args:
        shape: one of ``SHAPES``.
        folder: for the files.
    """
    paths = {option: folder / f"{option}.onnx" for option in OPTIONS}
    if not all(path.exists() for path in paths.values()):
        model, tokenizer = make_model(shape), BertTokenizerFast(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3})
        rows = [{"input_ids": [1] * TOKENS, "attention_mask": [1] * TOKENS, "token_type_ids": [0] * TOKENS}] * 4
        units, files = find_units(model, as_batches(rows, tokenizer)[0]), ModelFiles(model, tokenizer, rows, folder)
        for option, path in paths.items():
            exported = onnx.load(files.write(units, [Option(option.precision)] * len(units)))
            layers = marked_layers(exported)
            zero(exported, layers, [option] * len(layers))
            onnx.save(exported, path)
    yield from paths.items()


def create(path: Path, provider: str) -> tuple[float, float, float]:
    """Milliseconds, and megabytes at the peak and afterwards; arguments are those of ``session_worker``."""
    command = [sys.executable, str(ROOT / "benchmarks" / "session_worker.py"), str(path), provider]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    time, peak, after = map(float, printed.split())
    return time, peak / 1e3, after / 1e3


def report(rows: list[list[str]]) -> str:
    """The page."""
    heads = ["model", "linear layers", "ms", "", "", "MB, peak", "", "", "MB, afterwards", "", ""]
    lines = [
        "# Creation of a session with the execution provider",
        "",
        f"{date.today()}, {machine()}. Medians of {ROUNDS} processes. ms: processor time. MB: by how much the process "
        "grows, at its peak and afterwards. In each: the CPU provider alone, the execution provider, the ratio. Aims: "
        "at most 2 in time, 1.5 at the peak, and 1 afterwards. Made by `make bench-creation`.",
        "",
        markdown((heads, rows)),
    ]
    return "\n".join(lines) + "\n"


def machine() -> str:
    """The processor, the kernels that the execution provider selects on it, and ONNX Runtime's version."""
    sparse.register()
    (device,) = [one for one in onnxruntime.get_ep_devices() if one.ep_name == sparse.get_ep_name()]
    kernels = device.ep_metadata["instruction_set"]
    return f"one thread on {cpu_name()}, kernels of {kernels}; ONNX Runtime {onnxruntime.__version__}"


if __name__ == "__main__":
    main()
