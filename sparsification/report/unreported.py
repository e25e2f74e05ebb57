"""Results of runs without a report, such as a dense teacher's: scores and sizes from the files in the output folder.

Only runs with a recipe write ``report.json``.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sparsification.report.profiling import gzipped_size
from sparsification.report.results import REPORT_FILE, ModelResult, ReportError, RunResult, load_result

RESULTS_FILE = "all_results.json"  # Trainer's
MODELS = {"eval": ("model", "model.safetensors"), "eval_onnx": ("ONNX", "onnx/model.onnx")}  # by prefix of the metrics


def load_results(folders: Sequence[Path]) -> list[RunResult]:
    """Read the results of several runs, at least one of them with a report.

    Args:
        folders: output folders of runs; an exported model of a run without a report is expected in ``onnx``.

    Raises:
        ReportError: no folder has a report, or one has neither a report nor results of an evaluation.
    """
    unreported = [f for f in folders if not (f / REPORT_FILE).exists() and (f / RESULTS_FILE).is_file()]
    reported = [folder for folder in folders if folder not in unreported] or list(folders[:1])
    known = {folder: load_result(folder) for folder in reported}
    like = known[reported[0]]
    return [known[folder] if folder in known else _load_unreported(folder, like) for folder in folders]


def _load_unreported(folder: Path, like: RunResult) -> RunResult:
    """Read ``all_results.json``, and the sizes of the models; metrics are those of a run with a report."""
    try:
        values = json.loads((folder / RESULTS_FILE).read_text(encoding="utf-8"))
        weights = load_file(path) if (path := folder / MODELS["eval"][1]).is_file() else {}
        scores = {
            prefix: {
                label: float(values[f"{prefix}_{metric}"])
                for metric, label in like.metrics.items()
                if f"{prefix}_{metric}" in values
            }
            for prefix in MODELS
        }
    except (OSError, ValueError, TypeError, SafetensorError) as error:
        raise ReportError(f"{folder}: {RESULTS_FILE} or the weights cannot be read: {error}") from error
    if not scores["eval"]:
        raise ReportError(f"{folder / RESULTS_FILE} has no {' or '.join(like.metrics.values())}: was --do_eval given?")
    models = [
        ModelResult(
            name=name,
            scores=scores[prefix],
            parameters=sum(weight.numel() for weight in weights.values()) or None,
            sparsity=_encoder_sparsity(weights),
            size=(folder / file).stat().st_size if (folder / file).is_file() else None,
            gzipped=gzipped_size(folder / file) if (folder / file).is_file() else None,
        )
        for prefix, (name, file) in MODELS.items()
        if scores[prefix]
    ]
    # The number of features is known, their content is not: equal numbers are taken for the same data.
    features = f"{values.get('eval_samples', 0):,} features"
    data = like.data if like.data.get("evaluation", "").startswith(f"{features},") else {"evaluation": features}
    return RunResult(
        name=folder.resolve().name,
        command="",
        recipe_source="",
        recipe="",
        metrics=like.metrics,
        models=models,
        tokens=like.tokens,  # no speed is known, so that none is measured otherwise
        machine=like.machine,
        versions={},
        data=data,
        epochs=float(values.get("epoch", 0.0)),
        windows=[],
    )


def _encoder_sparsity(weights: dict[str, Tensor]) -> float | None:
    """Share of zeros in the matrices of numbered layers, in [0, 1]; None without such matrices."""
    matrices = [weight for name, weight in weights.items() if weight.dim() > 1 and re.search(r"\.\d+\.", name)]
    if not matrices:
        return None
    return 1 - sum(int(weight.count_nonzero()) for weight in matrices) / sum(weight.numel() for weight in matrices)
