"""Is a standard file with the execution provider as fast as the file with sparse operators of its own?

    make bench-provider, or python -m benchmarks.provider_speed --work_dir DIR

The models are those of ``benchmarks/session_creation.py``. The CPU provider, the execution provider and
``model.sparse.onnx`` with the library of sparse operators take turns, batch 1 on one thread, processor time.
"""

from datetime import date
from functools import partial
from pathlib import Path

from benchmarks.session_creation import machine, make_files, run_study
from benchmarks.sparse_runtime import VOCABULARY
from sparsification.plan.engines import ANY, OPERATORS, PROVIDER, served, session
from sparsification.plan.model_files import random_inputs
from sparsification.plan.timing import take_turns
from sparsification.report.tables import markdown

LENGTHS = (128, 384)
ROUNDS, SECONDS = 5, 0.5  # of a model in a round


def main() -> None:
    """Time the sessions, and write the table."""
    run_study(__doc__, "provider_speed.md", study, report)


def study(shape: str, folder: Path) -> list[list[str]]:
    """Rows of the table of one model."""
    rows = []
    for option, path in make_files(shape, folder):
        files = {ANY: path, PROVIDER: path, OPERATORS: served(path, OPERATORS)}
        sessions = [session(file, engine, threads=1) for engine, file in files.items()]
        for length in LENGTHS:
            runs = [partial(one.run, None, random_inputs(one, 1, length, VOCABULARY)) for one in sessions]
            dense, provider, operators = take_turns(runs, ROUNDS, SECONDS)
            rows.append(
                [
                    *(shape, str(option), str(length), f"{dense:.2f}", f"{provider:.2f}", f"{operators:.2f}"),
                    *(f"{dense / provider:.2f}x", f"{operators / provider:.2f}x"),
                ]
            )
            print(*rows[-1], flush=True)
    return rows


def report(rows: list[list[str]]) -> str:
    """The page."""
    heads = ["model", "linear layers", "tokens", "CPU provider", "execution provider", "`model.sparse.onnx`"]
    lines = [
        "# Speed with the execution provider",
        "",
        f"{date.today()}, batch 1, {machine()}. Milliseconds of processor time, medians of {ROUNDS} rounds in which "
        "the three sessions take turns. The aim is 0.9 of the speed of `model.sparse.onnx`. Made by "
        "`make bench-provider`.",
        "",
        markdown(([*heads, "to the first", "to `model.sparse.onnx`"], rows)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
