"""What does training save where batches are padded to their longest feature, and drawn by length?

    python -m benchmarks.padding --data FOLDER --model FOLDER [--questions 160] [--rounds 3]

``run_qa.py`` trains one epoch on the first questions of newwiki-train.json, each way in turn. What counts is the time
that Trainer reports, the median over the rounds of its ratio to the padded way's in the same round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path

from sparsification.report.environment import cpu_name
from sparsification.report.tables import markdown

ROOT = Path(__file__).resolve().parent.parent
PADDED = "padded to 384 tokens (the default)"
SHORT = ["--pad_to_max_length", "False"]
BY_LENGTH = [*SHORT, "--train_sampling_strategy", "group_by_length"]
WAYS = {
    PADDED: [],
    "`--pad_to_max_length False`": SHORT,
    "`--pad_to_max_length False --train_sampling_strategy group_by_length`": BY_LENGTH,
    "the same with `--bf16`": [*BY_LENGTH, "--bf16"],
}


def train(model: Path, data: Path, questions: int, flags: list[str]) -> float:
    """Seconds that an epoch takes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "run_qa.py", "--model_name_or_path", str(model), "--output_dir", folder),
            *("--train_file", str(data / "newwiki-train.json"), "--max_train_samples", str(questions), "--do_train"),
            *("--num_train_epochs", "1", "--per_device_train_batch_size", "16", "--save_strategy", "no", "--use_cpu"),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.run([*command, *flags], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
        return json.loads(Path(folder, "train_results.json").read_text(encoding="utf-8"))["train_runtime"]


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="the folder of newwiki-train.json")
    parser.add_argument("--model", type=Path, required=True, help="a BERT with its tokenizer, e.g. all-MiniLM-L6-v2")
    parser.add_argument("--questions", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "padding.md")
    args = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(args.rounds):
        for name, flags in WAYS.items():
            seconds[name].append(train(args.model, args.data, args.questions, flags))
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    times = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {
        name: statistics.median(one / other for one, other in zip(seconds[PADDED], values, strict=True))
        for name, values in seconds.items()
    }
    rows = [[name, f"{times[name]:.1f}", f"{ratios[name]:.2f}"] for name in seconds]
    lines = [
        "# Padding",
        "",
        f"{date.today()}, one thread of {cpu_name()}; an epoch of {args.questions} questions of New Wikipedia, batches "
        f"of 16, {args.model.name}. Medians of {args.rounds} rounds. Made by `make bench-padding`.",
        "",
        markdown((["", "seconds", "times as fast"], rows)),
    ]
    args.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
