"""Which encoders classify texts, tag words and embed sentences by the scripts in examples/?

    make encoders

A tiny random encoder of each family, without a head, goes through ``run_glue.py``, ``run_ner.py`` and
``run_embedding.py``: pruned with a teacher and exported in fp32, quantized in one shot and exported in int8. Both
exports are evaluated, and ``sparsification predict`` reads them. The second section of docs/encoders.md says "yes" or
the words of the refusal. Anything else ends the study.
"""

import csv
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from helpers.command_lines import FAST_EXPORT
from helpers.data import PLACES, tagged_words, write_tagged
from helpers.examples import load_example
from helpers.studies import (
    PRUNE,
    VERSIONS,
    Cells,
    check_weights,
    family_parser,
    must,
    outcome,
    publish,
    table,
    without_output,
)
from helpers.tiny_encoders import FAMILIES, save_tiny_encoder
from sparsification.quantization.checkpoint import QUANTIZATION_FILE
from sparsification.tasks.predict import load_predictor

TITLE = "Other tasks"
DISTILL = "  - !DistillationModifier {hardness: 0.5, distill_output_keys: [logits]}\n"
QUANTIZE = "modifiers:\n  - !QuantizationModifier {start_epoch: 0.0, disable_quantization_observer_epoch: 1.0}\n"
FLAGS = (
    "--do_eval --use_cpu --distill_teacher self --max_seq_length 64 --learning_rate 1e-3 --save_strategy no --seed 3 "
    "--report_to none --disable_tqdm true --log_level warning --per_device_train_batch_size 4"
)
SCALE = 5.0  # of the random matrices
INT8_LIMIT = 0.1  # of the mean difference of probabilities, tags or cosines


@dataclass(frozen=True)
class Task:
    """A script, and its data."""

    script: str
    data: str  # file to train and to evaluate on
    recipe: str  # that prunes with a teacher
    metric: str


TASKS = {
    "text classification": Task("run_glue", "texts.csv", "distill.yaml", "accuracy"),
    "token classification": Task("run_ner", "words.json", "distill.yaml", "accuracy"),
    "embeddings": Task("run_embedding", "texts.txt", "prune.yaml", "cosine"),
}


def prepare(folder: Path) -> None:
    """Write data and recipes."""
    texts = [f"{city} lies beside the {water}." for city, _, water, _ in PLACES]
    with (folder / "texts.csv").open("w", newline="") as file:
        sizes = ["large" if people > 10**6 else "small" for *_, people in PLACES]
        csv.writer(file).writerows([("sentence", "label"), *zip(texts, sizes, strict=True)])
    write_tagged(folder / "words.json", tagged_words(PLACES))
    (folder / "texts.txt").write_text("\n".join(texts))
    (folder / "prune.yaml").write_text(PRUNE)
    (folder / "distill.yaml").write_text(PRUNE + DISTILL)
    (folder / "quantize.yaml").write_text(QUANTIZE)


def run(folder: Path, model: Path, task: Task, out: Path, recipe: str, *more: object) -> dict[str, float]:
    """Run a task's script; the export is a folder of the output."""
    files = (
        "--train_file",
        folder / task.data,
        "--validation_file",
        folder / task.data,
        "--cache_dir",
        folder / "cache",
    )
    named = ("--model_name_or_path", model, "--output_dir", out, "--onnx_export_path", out / "onnx")
    arguments = (*files, *named, "--recipe", folder / recipe, *FLAGS.split(), *more)
    return load_example(task.script).main([str(argument) for argument in arguments])


def check_predictions(folder: Path, task: Task, out: Path, metrics: dict[str, float], limit: float) -> None:
    """Check that the export predicts what the saved model does, and has the metric of the evaluation."""
    saved, exported = load_predictor(out), load_predictor(out / "onnx")
    records = saved.read(folder / task.data)
    ours, theirs = (predictor.predict(records.inputs) for predictor in (saved, exported))
    apart = np.mean([saved.difference(*pair) for pair in zip(ours, theirs, strict=True)])
    must(apart <= limit, f"{out}: the predictions of the export are {apart:.2g} away")
    if records.labels is not None:
        score, name = exported.scores(records, theirs)[task.metric], f"eval_onnx_{task.metric}"
        must(abs(score - metrics[name]) < 1e-6, f"{out}: {name} is {metrics[name]}, predictions have {score}")


def try_task(folder: Path, family: str, name: str, *flags: object) -> None:
    """Prune and export in fp32, then quantize and export in int8."""
    here, task = folder / family, TASKS[name]
    pruned, quantized = (here / f"{task.script}_{form}" for form in ("pruned", "quantized"))
    metrics = run(folder, here / "model", task, pruned, task.recipe, "--do_train", *flags)
    check_weights(pruned)
    own, exported = (metrics[f"{stage}_{task.metric}"] for stage in ("eval", "eval_onnx"))
    must(abs(own - exported) < 1e-5, f"{pruned}: the ONNX file has {task.metric} {exported}, PyTorch {own}")
    check_predictions(folder, task, pruned, metrics, limit=1e-4)

    metrics = run(folder, pruned, task, quantized, "quantize.yaml", "--one_shot", *FAST_EXPORT)
    check_weights(quantized)
    must((quantized / QUANTIZATION_FILE).is_file(), f"{quantized} has no ranges")
    check_predictions(folder, task, quantized, metrics, INT8_LIMIT)


def study(folder: Path, family: str, *flags: object) -> Cells:
    """Fill a row."""
    save_tiny_encoder(family, folder / family / "model", "Model", SCALE)
    return {name: outcome(lambda name=name: try_task(folder, family, name, *flags), folder) for name in TASKS}


def section(rows: dict[str, Cells]) -> list[str]:
    """The table, and what a yes means."""
    return [
        "What `run_glue.py`, `run_ner.py` and `run_embedding.py` do with a tiny random encoder of each family that has",
        f"no head yet. A yes is checked, with {VERSIONS}:",
        "",
        "- pruned with a teacher to 80 % sparsity in 1x4 blocks, and exported in fp32 with the metric of PyTorch,",
        "- quantized in one shot, and exported in int8 by the faster exporter,",
        "- `sparsification predict` gives for the export what it gives for the saved model; in int8, nearly.",
        "",
        *table(tuple(TASKS), rows),
    ]


def main() -> None:
    """Study the families and write the section."""
    options = family_parser(__doc__, FAMILIES).parse_args()
    rows = {}
    with without_output(), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(folder)
        for family in options.families or FAMILIES:
            rows[family] = study(folder, family)
            tqdm.write(f"{family}: {rows[family]}", file=sys.stderr)
    publish(TITLE, section(rows), whole=options.families is None)


if __name__ == "__main__":
    main()
