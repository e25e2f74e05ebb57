"""Command lines of run_qa.py for a few quick steps on the CPU."""

from pathlib import Path

FAST_EXPORT = ("--onnx_exporter", "torchscript")  # for tests of other things: it takes a tenth of dynamo's time


def command(model: Path, data: Path, out: Path, *flags: str) -> list[str]:
    """A command line for a few quick steps on the CPU; ``--onnx_exporter auto`` gives the default exporter back."""
    return [
        *("--model_name_or_path", str(model), "--dataset_name", str(data), "--output_dir", str(out)),
        *("--max_seq_length", "64", "--doc_stride", "16", "--use_cpu", *FAST_EXPORT),
        *flags,
    ]


def squad_command(squad: Path, *arguments: object) -> list[str]:
    """The same with the data as files, and any arguments."""
    files = ("--train_file", squad / "train.json", "--validation_file", squad / "validation.json")
    fixed = ("--max_seq_length", 64, "--doc_stride", 16, "--use_cpu", "--report_to", "none", "--learning_rate", 1e-3)
    fixed += ("--pad_to_max_length", False, *FAST_EXPORT)
    return [str(argument) for argument in (*files, *fixed, *arguments)]
