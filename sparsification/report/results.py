"""Result of a run: figures of its models, and what is needed to repeat it.

It is stored as ``report.json`` in the output folder. Reports, the model card and comparisons are made from it.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparsification.atomic_io import atomic_write_text
from sparsification.errors import SparsificationError

REPORT_FILE = "report.json"
History = Sequence[Mapping[str, float]]  # Trainer's log
SECRETS = ("token", "hub_token")  # flags whose values are not shown


class ReportError(SparsificationError, ValueError):
    """A folder has no report of a run, or one that this version cannot read."""


@dataclass(frozen=True, kw_only=True)
class ModelResult:
    """Figures of one model; None where a figure is not known."""

    name: str  # teacher, student, ONNX or ONNX sparse
    scores: dict[str, float]  # by label, e.g. F1, on the scale of the task
    parameters: int | None = None
    sparsity: float | None = None  # of the encoder's matrices, in [0, 1]
    file: str | None = None
    size: int | None = None  # of the file, bytes
    gzipped: int | None = None
    latency: float | None = None  # milliseconds for one feature on one thread
    throughput: float | None = None  # features per second, in batches, on one thread


@dataclass(frozen=True, kw_only=True)
class Window:
    """Time span of one modifier, in epochs."""

    label: str
    start: float
    end: float  # infinity: until the end of the run


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """Everything that the report of a run shows, its curves aside."""

    name: str
    command: str
    recipe_source: str
    recipe: str
    metrics: dict[str, str]  # names in the log -> labels; the last one is the main metric
    models: list[ModelResult]
    tokens: int | None  # length of the features for latency and throughput
    machine: str
    versions: dict[str, str]
    data: dict[str, str]  # split -> number of features, and a hash of them
    epochs: float
    windows: list[Window]

    def recovery(self, model: ModelResult) -> float | None:
        """Ratio of a model's score to the teacher's in the main metric, None where one of them is not known."""
        teacher, score = self.model("teacher"), next(reversed(self.metrics.values()), None)
        if teacher is None or score is None or not teacher.scores.get(score) or score not in model.scores:
            return None
        return model.scores[score] / teacher.scores[score]

    def model(self, name: str) -> ModelResult | None:
        """The model of a name, or None."""
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
        ReportError: the file is missing, or was written by another version.
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
        raise ReportError(f"{path} does not exist; a run with --recipe writes it when it ends") from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"{path} is not a report that this version can read: {error}") from error


def redact_secrets(argv: list[str]) -> list[str]:
    """Replace the values of access tokens in a command line by ``...``."""
    shown = list(argv)
    for index, word in enumerate(argv):
        flag, equals, _ = word.removeprefix("--").partition("=")
        if word.startswith("--") and flag.replace("-", "_") in SECRETS:
            if equals:
                shown[index] = f"--{flag}=..."
            elif index + 1 < len(argv) and not argv[index + 1].startswith("--"):
                shown[index + 1] = "..."
    return shown
