"""Quickstart: train a teacher, prune and distill a student, export both, and compare them, in a few minutes.

The teacher is trained on the texts in this folder. The student is trained by recipe.yaml to 80 % sparsity of its
encoder. Everything runs offline on two CPU cores.

    python quickstart/quickstart.py
"""

import argparse
import gzip
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
from safetensors.numpy import load_file
from transformers import AutoTokenizer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TEACHER_F1_BAR = 80.0
STUDENT_SHARE_BAR = 0.97  # of the teacher's F1
LATENCY_QUESTIONS = 50

# Flags of both runs of run_qa.py.
COMMON = """
    --do_train --do_eval --max_seq_length 128 --doc_stride 32 --pad_to_max_length False
    --train_sampling_strategy group_by_length --per_device_train_batch_size 32 --per_device_eval_batch_size 64
    --save_strategy no --report_to none --use_cpu --overwrite_output_dir
""".split()
# Ten evaluations and fifty log entries, for curves in the report; they change no weight. The teacher's logits are
# computed anew in each run: read from the cache of an earlier run, they differ by rounding.
STUDENT = "--eval_strategy steps --eval_steps 0.1 --logging_steps 0.02 --teacher_cache off".split()
TEACHER = (
    "--learning_rate 3e-3 --warmup_steps 0.1 --num_train_epochs 2.2".split()
)  # recipe.yaml sets those of the student


class QuickstartError(RuntimeError):
    """A step failed, or a model is worse than the quickstart requires."""


@dataclass(frozen=True)
class Measured:
    """Figures of one model, a row of the table."""

    name: str
    exact_match: float  # both through ONNX Runtime, 0 to 100
    f1: float
    torch_f1: float
    sparsity: float  # of the encoder's weight matrices, 0 to 1
    size: int  # of model.onnx, bytes
    gzip_size: int
    latency: float  # milliseconds


def run_step(title: str, command: Sequence[str | Path], log: Path) -> None:
    """Print a command and run it from the repository's root, with its output in ``log``.

    Raises:
        QuickstartError: the command failed.
    """
    line = shlex.join(str(part) for part in command)
    print(f"\n{title}\n\n  " + line.replace(" --", " \\\n      --") + "\n", flush=True)
    start = time.perf_counter()
    log.parent.mkdir(parents=True, exist_ok=True)
    # One thread: matrices this small gain little from a second thread, and two threads took four times as long as one
    # while another program used the second core.
    environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("w", encoding="utf-8") as output:
        # The interpreter of this file; "python" on the path may be another one.
        status = subprocess.run(
            [sys.executable, *map(str, command[1:])],
            cwd=ROOT,
            env=environment | os.environ,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if status:
        last_lines = log.read_text("utf-8", errors="replace").splitlines()[-15:]
        raise QuickstartError("\n".join([*last_lines, f"{command[1]} failed; its full output is in {log}"]))
    print(f"  done in {time.perf_counter() - start:.0f} s, output in {log}", flush=True)


def encoder_sparsity(checkpoint: Path) -> float:
    """Sparsity of the matrices of the encoder's linear layers, in [0, 1]."""
    weights = [
        weight for name, weight in load_file(checkpoint).items() if ".encoder." in name and name.endswith("weight")
    ]
    matrices = [weight for weight in weights if weight.ndim == 2]
    return sum(int((weight == 0).sum()) for weight in matrices) / sum(weight.size for weight in matrices)


def measure_latencies(folders: Sequence[Path], validation_file: Path) -> list[float]:
    """Measure the latency of ONNX models on the same questions, one question at a time, on one thread.

    The models take turns, so that a change of the machine's speed affects all of them.

    Returns:
        The median of 50 questions for each model, in milliseconds.
    """
    articles = json.loads(validation_file.read_text("utf-8"))["data"]
    pairs = [(qa["question"], p["context"]) for article in articles for p in article["paragraphs"] for qa in p["qas"]]
    pairs = pairs[:: len(pairs) // LATENCY_QUESTIONS][:LATENCY_QUESTIONS]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
        for folder in folders
    ]
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    times: list[list[float]] = [[] for _ in sessions]
    for question, context in [*pairs[:5], *pairs]:  # the first five warm up
        encoded = tokenizer(question, context, return_token_type_ids=True)
        features = {name: np.array([ids], dtype=np.int64) for name, ids in encoded.items()}
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, features)
            taken.append((time.perf_counter() - start) * 1000)
    return [statistics.median(taken[5:]) for taken in times]


def measure(names: Sequence[str], work_dir: Path) -> list[Measured]:
    """Read the results of run_qa.py from its output folders, and measure size and latency."""
    latencies = measure_latencies([work_dir / name / "onnx" for name in names], HERE / "validation.json")
    measured = []
    for name, latency in zip(names, latencies, strict=True):
        results = json.loads((work_dir / name / "all_results.json").read_text("utf-8"))
        model_bytes = (work_dir / name / "onnx" / "model.onnx").read_bytes()
        measured.append(
            Measured(
                name=name,
                exact_match=results["eval_onnx_exact_match"],
                f1=results["eval_onnx_f1"],
                torch_f1=results["eval_f1"],
                sparsity=encoder_sparsity(work_dir / name / "model.safetensors"),
                size=len(model_bytes),
                gzip_size=len(gzip.compress(model_bytes)),
                latency=latency,
            )
        )
    return measured


def table(rows: Sequence[Measured]) -> str:
    """Format the results as a table."""
    lines = [
        f"{'':8} {'EM':>6} {'F1':>6} {'F1, PyTorch':>12} {'sparsity':>9} {'file':>9} {'gzipped':>9} {'latency':>9}"
    ]
    for row in rows:
        lines.append(
            f"{row.name:8} {row.exact_match:6.1f} {row.f1:6.1f} {row.torch_f1:12.1f} {row.sparsity:9.1%} "
            f"{row.size / 1e6:6.2f} MB {row.gzip_size / 1e6:6.2f} MB {row.latency:6.2f} ms"
        )
    return "\n".join(lines)


def check_bars(teacher: Measured, student: Measured) -> None:
    """Check the F1 of both models.

    Raises:
        QuickstartError: the F1 of the teacher or of the student is too low.
    """
    if teacher.f1 <= TEACHER_F1_BAR:
        raise QuickstartError(f"the teacher's F1 is {teacher.f1:.1f}, it should be above {TEACHER_F1_BAR:g}")
    if student.f1 < STUDENT_SHARE_BAR * teacher.f1:
        raise QuickstartError(
            f"the student's F1 is {student.f1:.1f}, it should be at least {STUDENT_SHARE_BAR:.0%} of the teacher's "
            f"{teacher.f1:.1f}"
        )


def steps(data: Path, models: Path) -> list[tuple[str, str, list[str | Path]]]:
    """The commands of the quickstart: name, description and arguments of each.

    Args:
        data: folder with the data and the recipe.
        models: output folder.
    """
    train_file = ["--train_file", data / "train.json"]
    files = [*train_file, "--validation_file", data / "validation.json", "--cache_dir", models / "cache"]
    return [
        (
            "untrained",
            "Make an untrained model of two layers, and its vocabulary:",
            ["python", data / "make_model.py", *train_file, "--output_dir", models / "untrained"],
        ),
        (
            "teacher",
            "Train the teacher from scratch (about 1.5 minutes):",
            ["python", "run_qa.py", "--model_name_or_path", models / "untrained", *files, *COMMON, *TEACHER]
            + ["--output_dir", models / "teacher", "--onnx_export_path", models / "teacher/onnx"],
        ),
        (
            "student",
            "Train the student, a copy of the teacher, pruned and distilled by the recipe (over a minute):",
            ["python", "run_qa.py", "--model_name_or_path", models / "teacher", *files, *COMMON, *STUDENT]
            + ["--recipe", data / "recipe.yaml", "--distill_teacher", models / "teacher"]
            + ["--output_dir", models / "student", "--onnx_export_path", models / "student/onnx"],
        ),
    ]


def run_quickstart(work_dir: Path) -> None:
    """Run all steps and print the table.

    Raises:
        QuickstartError: a step failed, or the F1 of a model is too low.
    """
    start = time.perf_counter()
    # Relative to the root of the repository, where the commands run.
    data, models = (path.relative_to(ROOT) if path.is_relative_to(ROOT) else path for path in (HERE, work_dir))
    for name, title, command in steps(data, models):
        run_step(title, command, work_dir / f"{name}.log")
    teacher, student = measure(["teacher", "student"], work_dir)
    print(f"\nOn {data}/validation.json, whose subjects, texts and part of the names do not occur in training:\n")
    print(table([teacher, student]))
    print(
        "\nEM, F1 and latency: ONNX Runtime. Sparsity: matrices of the encoder's layers. Latency: median of "
        f"{LATENCY_QUESTIONS} questions,\none at a time, on one thread. Unstructured sparsity makes a compressed file "
        "smaller, but ONNX Runtime no faster."
    )
    print(f"\nThe student keeps {student.f1 / teacher.f1:.1%} of the teacher's F1. ", end="")
    print(f"The quickstart took {time.perf_counter() - start:.0f} s.")
    print(f"\nCurves and details: {models}/student/report.html", flush=True)
    check_bars(teacher, student)


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work_dir", type=Path, default=HERE / "out", help="output folder")
    try:
        run_quickstart(parser.parse_args().work_dir.resolve())
    except QuickstartError as error:
        sys.exit(f"quickstart: {error}")
    except KeyboardInterrupt:
        sys.exit("quickstart: interrupted")


if __name__ == "__main__":
    main()
