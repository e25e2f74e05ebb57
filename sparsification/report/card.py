"""What does a sparsified model's page on the hub say?"""

import os
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard

from sparsification.report.facts import RunFacts, write_whole
from sparsification.report.tables import markdown, result_table

_BEFORE = "## Model description\n\n"  # where Trainer's card waits for somebody to describe the model
_EMPTY = "More information needed\n"


def complete_card(path: Path, facts: RunFacts, task: str | None, dataset: str | None) -> None:
    """Put a run's figures into the card that Trainer has written, as text and as metadata.

    Args:
        path: the card, README.md of the saved model.
        facts: of the run.
        task: as the hub calls it, e.g. question-answering.
        dataset: name of the data; that of a folder is shown without its path.
    """
    card = ModelCard.load(path)
    data, text = card.data, card.text
    shown = Path(dataset).name if dataset and os.path.isdir(dataset) else dataset or "unknown"
    if dataset:
        text = text.replace(f"on the {dataset} dataset", f"on the {shown} dataset", 1)
    base = data.base_model
    if base and os.path.isdir(base):
        data.base_model = None  # the hub takes names only
        text = text.replace(f"[{base}](https://huggingface.co/{base})", Path(base).name, 1)
    data.datasets = [name for name in data.datasets or [] if not os.path.isdir(name)] or None
    data.metrics = list(facts.metrics)
    data.model_name = facts.name
    names = {label: name for name, label in facts.metrics.items()}
    data.eval_results = [
        EvalResult(
            task_type=task or "other",
            dataset_type=shown,
            dataset_name=shown,
            metric_type=names[label],
            metric_name=label if model.name == "student" else f"{label} ({model.name})",
            metric_value=value,
        )
        for model in facts.models
        if model.name != "teacher"
        for label, value in model.scores.items()
    ] or None
    text = text.replace(_BEFORE + _EMPTY, _BEFORE + _description(facts), 1)
    write_whole(path, f"---\n{data.to_yaml()}\n---\n{text}")


def _description(facts: RunFacts) -> str:
    student = facts.model("student")
    zeros = f", with {student.sparsity:.1%} of its encoder's weights at zero" if student and student.sparsity else ""
    return "\n\n".join(
        [
            f"Made smaller while it was trained, by the recipe below{zeros}. `report.html` shows the run.",
            markdown(result_table(facts)),
            f"Measured on {facts.machine}; one feature of {facts.tokens} tokens, one thread."
            if facts.tokens
            else f"Run on {facts.machine}.",
            f"```yaml\n{facts.recipe.rstrip()}\n```\n",
        ]
    )
