"""What does training save where batches are padded to their longest feature, drawn by length, in bf16, eagerly?

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
EAGER = "the same with `--bf16` and eager attention"
SHORT = ["--pad_to_max_length", "False"]
BY_LENGTH = [*SHORT, "--train_sampling_strategy", "group_by_length"]
WAYS = {
    PADDED: [],
    "`--pad_to_max_length False`": SHORT,
    "`--pad_to_max_length False --train_sampling_strategy group_by_length`": BY_LENGTH,
    "the same with `--bf16`": [*BY_LENGTH, "--bf16"],
    EAGER: [*BY_LENGTH, "--bf16"],
}


def write_eager(model: Path, folder: Path) -> Path:
    """Write a model's configuration with eager attention into a folder."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8")) | {"attn_implementation": "eager"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def train(model: Path, config: Path, data: Path, questions: int, flags: list[str]) -> float:
    """Seconds that an epoch takes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "run_qa.py", "--model_name_or_path", str(model), "--config_name", str(config)),
            *("--output_dir", folder, "--train_file", str(data / "newwiki-train.json"), "--do_train"),
            *("--max_train_samples", str(questions), "--save_strategy", "no", "--use_cpu"),
            *("--num_train_epochs", "1", "--per_device_train_batch_size", "16"),
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
    with tempfile.TemporaryDirectory() as folder:
        configs = {EAGER: write_eager(args.model, Path(folder))}
        for name in [*WAYS] * args.rounds:
            seconds[name].append(
                train(args.model, configs.get(name, args.model), args.data, args.questions, WAYS[name])
            )
            print(f"{name}: {seconds[name][-1]:.1f} s", flush=True)
    rows = []
    for name, values in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(seconds[PADDED], values, strict=True))
        rows.append([name, f"{statistics.median(values):.1f}", f"{ratio:.2f}"])
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
