"""What came out of a run? Its models side by side, and what it takes to do it again.

``report.json`` keeps it in the output folder; the reports, the model card and comparisons of runs are made from it.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path

from sparsification.atomic_io import atomic_write_text
from sparsification.errors import SparsificationError

REPORT_FILE = "report.json"
SECRETS = ("token", "hub_token")  # flags whose values are nobody's business


class ReportError(SparsificationError, ValueError):
    """A folder has no report of a run, or none of today."""


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """One model. What is not known is None."""

    name: str  # teacher, student, ONNX
    scores: dict[str, float]  # by label, e.g. F1, in the task's own scale
    parameters: int | None = None
    sparsity: float | None = None  # of the encoder's matrices, in [0, 1]
    file: str | None = None
    size: int | None = None  # of the file, bytes
    gzipped: int | None = None
    latency: float | None = None  # milliseconds for one feature on one thread
    throughput: float | None = None  # features a second, in batches, on one thread


@dataclass(frozen=True, kw_only=True)
class Window:
    """The time of one modifier, in epochs."""

    label: str
    start: float
    end: float  # infinity: until the end of the run


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A run, as its report tells it."""

    name: str
    command: str
    recipe_source: str
    recipe: str
    metrics: dict[str, str]  # names in the log, with their labels; the last one is what recovery is about
    models: list[ModelResult]
    tokens: int | None  # length of the features that speed was measured on
    machine: str
    versions: dict[str, str]
    data: dict[str, str]  # split -> how many features, and a hash of them
    epochs: float
    windows: list[Window]

    def recovery(self, model: ModelResult) -> float | None:
        """Share of the teacher's score that a model keeps, None where one of the two is not known."""
        teacher, score = self.model("teacher"), next(reversed(self.metrics.values()), None)
        if teacher is None or score is None or not teacher.scores.get(score) or score not in model.scores:
            return None
        return model.scores[score] / teacher.scores[score]

    def model(self, name: str) -> ModelResult | None:
        """The model of that name, if the run has one."""
        return next((model for model in self.models if model.name == name), None)


def save_result(result: RunResult, folder: Path) -> None:
    """Write ``report.json``."""
    values = dataclasses.asdict(result)
    for window in values["windows"]:
        window["end"] = None if math.isinf(window["end"]) else window["end"]
    atomic_write_text(folder / REPORT_FILE, json.dumps(values, indent=2) + "\n")


def load_result(folder: Path) -> RunResult:
    """Read what ``save_result`` wrote.

    Raises:
        ReportError: there is none, or it is not one of this version.
    """
    path = folder / REPORT_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        models = [ModelResult(**model) for model in values.pop("models")]
        windows = [
            Window(**window | {"end": math.inf if window["end"] is None else window["end"]})
            for window in values.pop("windows")
        ]
        return RunResult(**values, models=models, windows=windows)
    except FileNotFoundError as error:
        raise ReportError(f"{path}: not there; a run with --recipe writes it at its end") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"{path}: no report of a run: {error}") from error


def redact_secrets(argv: list[str]) -> list[str]:
    """The command line without tokens."""
    shown = list(argv)
    for index, word in enumerate(argv):
        flag, equals, _ = word.removeprefix("--").partition("=")
        if word.startswith("--") and flag.replace("-", "_") in SECRETS:
            if equals:
                shown[index] = f"--{flag}=..."
            elif index + 1 < len(argv) and not argv[index + 1].startswith("--"):
                shown[index + 1] = "..."
    return shown
