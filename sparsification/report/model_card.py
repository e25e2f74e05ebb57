"""Model card of a sparsified model, README.md in the output folder.

Trainer writes the card from its arguments and from evaluations that have a loss. A recipe overrides some arguments, and
question answering is evaluated without a loss. The functions here correct and complete the card.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from sparsification.atomic_io import atomic_write_text
from sparsification.report.results import History, RunResult
from sparsification.report.tables import Table, markdown, result_table

_BEFORE = "## Model description\n\n"  # followed by _EMPTY in Trainer's card
_EMPTY = "More information needed\n"
_RESULTS = "### Training results\n\n"
_HYPERPARAMETERS = "The following hyperparameters were used during training:\n"
# Logged with each evaluation, but no metrics: times, memory and sparsity.
_NO_METRICS = re.compile(r"eval_(.*runtime|.*_per_second|.*_time|mem_.*|sparsity)")


def complete_card(
    path: Path,
    history: History,
    task: str | None,
    dataset: str | None,
    result: RunResult | None = None,
    hyperparameters: Mapping[str, str] | None = None,
) -> None:
    """Add the figures of a run to the card that Trainer has written, as text and as metadata.

    Args:
        path: the card, README.md of the saved model.
        history: Trainer's log.
        task: the hub's name of the task, e.g. ``question-answering``.
        dataset: name of the data; of a folder the last part of its path is shown.
        result: of a run by a recipe, otherwise None.
        hyperparameters: texts for the arguments that the recipe overrides, by name; an empty text removes the line.
            None if the run did not train.
    """
    card = ModelCard.load(path)
    data, text = card.data, card.text
    shown = Path(dataset).name if dataset and os.path.isdir(dataset) else dataset or "unknown"
    if dataset:
        text = text.replace(f"on the {dataset} dataset", f"on the {shown} dataset", 1)
    base = data.base_model
    if base and os.path.isdir(base):
        data.base_model = None  # the hub accepts names only, no paths
        text = text.replace(f"[{base}](https://huggingface.co/{base})", Path(base).name, 1)
    data.pipeline_tag = task
    text = _with_hyperparameters(text, hyperparameters, result)
    if not has_losses(history):
        given = [] if dataset is None or os.path.isdir(dataset) else [dataset]
        data.datasets = list(dict.fromkeys([*(data.datasets or []), *given])) or None
        labels = result.metrics if result else _labels(history)
        data.metrics = list(labels) or None
        table = training_results(history, labels)
        said = markdown(table) + "\n" if table[1] else "No evaluation during training.\n"
        text = text.replace(f"{_RESULTS}\n", f"{_RESULTS}{said}", 1)
        scores = _last_scores(history, labels)
        if result is None and scores:
            lines = "".join(f"- {label}: {value:.4g}\n" for label, value in scores.items())
            said = f"It achieves the following results on the evaluation set:\n{lines}\n"
            text = text.replace(_BEFORE, f"{said}{_BEFORE}", 1)
        rows = [(model.name, model.scores) for model in result.models] if result else [("student", scores)]
        names = {label: name for name, label in labels.items()}
        data.model_name = result.name if result else data.model_name or path.resolve().parent.name
        data.eval_results = [
            EvalResult(
                task_type=task or "other",
                dataset_type=shown,
                dataset_name=shown,
                metric_type=names[label],
                metric_name=label if name == "student" else f"{label} ({name})",
                metric_value=value,
            )
            for name, found in rows
            if name != "teacher"
            for label, value in found.items()
        ] or None
    if result:
        text = text.replace(_BEFORE + _EMPTY, _BEFORE + _description(result, trained=hyperparameters is not None), 1)
    atomic_write_text(path, f"---\n{data.to_yaml()}\n---\n{text}")


def has_losses(history: History) -> bool:
    """Whether a log has evaluations with a loss; Trainer's card shows no others."""
    return any("eval_loss" in row for row in history)


def training_results(history: History, labels: Mapping[str, str]) -> Table:
    """Table of the evaluations during training: epoch, step, scores, and sparsity where it is not 0."""
    ends = [index for index, row in enumerate(history) if "train_runtime" in row]
    rows = [row for row in history[: ends[-1]] if "eval_runtime" in row] if ends else []
    sparse = any(row.get("eval_sparsity") for row in rows)
    return ["Epoch", "Step", *labels.values(), *(["Sparsity"] if sparse else [])], [
        [f"{row.get('epoch', 0.0):.4g}", f"{row.get('step', 0)}"]
        + [f"{row[f'eval_{name}']:.2f}" if f"eval_{name}" in row else "" for name in labels]
        + ([f"{row.get('eval_sparsity', 0.0):.1%}"] if sparse else [])
        for row in rows
    ]


def _labels(history: History) -> dict[str, str]:
    """Metrics of a run without a result: their names in the log -> labels made from the names."""
    names = [name for row in history if "eval_runtime" in row for name in row if name.startswith("eval_")]
    names = [name for name in names if not _NO_METRICS.fullmatch(name)]
    return {name[5:]: name[5:].replace("_", " ").capitalize() for name in dict.fromkeys(names)}


def _last_scores(history: History, labels: Mapping[str, str]) -> dict[str, float]:
    last = next((row for row in reversed(history) if "eval_runtime" in row), {})
    return {label: last[f"eval_{name}"] for name, label in labels.items() if f"eval_{name}" in last}


def _with_hyperparameters(text: str, changed: Mapping[str, str] | None, result: RunResult | None) -> str:
    """The card with the hyperparameters that were used, in place of the arguments that were given."""
    if changed is None:
        start = text.find(_HYPERPARAMETERS)
        end = text.find("\n### ", start)
        how = "the recipe was applied without training" if result else "this run did not train"
        return text if start < 0 or end < 0 else f"{text[:start]}None: {how}.\n{text[end:]}"
    for name, value in changed.items():
        text = re.sub(rf"^- {name}: .*\n", f"- {name}: {value}\n" if value else "", text, count=1, flags=re.MULTILINE)
    return text


def _description(result: RunResult, trained: bool) -> str:
    student = result.model("student")
    sparsity = f" The sparsity of its encoder is {student.sparsity:.1%}." if student and student.sparsity else ""
    return "\n\n".join(
        [
            f"Compressed {'during training' if trained else 'without training'} by the recipe below.{sparsity} "
            "`report.html` shows the run.",
            markdown(result_table(result)),
            f"Measured on {result.machine}, one feature of {result.tokens} tokens on one thread."
            if result.tokens
            else f"Run on {result.machine}.",
            f"```yaml\n{result.recipe.rstrip()}\n```\n",
        ]
    )
