"""Command lines of run_qa.py for a few quick steps on the CPU."""

from pathlib import Path


def command(model: Path, data: Path, out: Path, *flags: str) -> list[str]:
    """A command line for a few quick steps on the CPU."""
    return [
        *("--model_name_or_path", str(model), "--dataset_name", str(data), "--output_dir", str(out)),
        *("--max_seq_length", "64", "--doc_stride", "16", "--use_cpu"),
        *flags,
    ]


def squad_command(squad: Path, *arguments: object) -> list[str]:
    files = ("--train_file", squad / "train.json", "--validation_file", squad / "validation.json")
    fixed = ("--max_seq_length", 64, "--doc_stride", 16, "--use_cpu", "--report_to", "none", "--learning_rate", 1e-3)
    return [str(argument) for argument in (*files, *fixed, "--pad_to_max_length", False, *arguments)]
