"""Evaluation of the ONNX files that a run has exported."""

from collections.abc import Iterator
from pathlib import Path

from sparsification.export.onnx import ExportReport
from sparsification.runtime.rewrite import SPARSE_FILE
from sparsification.trainer.evaluation import EvaluationMixin


def evaluate_files(
    trainer: EvaluationMixin, exported: ExportReport | None, folder: Path
) -> Iterator[tuple[str, dict[str, float]]]:
    """Evaluate ``model.onnx`` in ONNX Runtime, and ``model.sparse.onnx`` if it is there.

    Args:
        trainer: of the run.
        exported: the export's report; None on the processes that have not exported.
        folder: of the files.

    Yields:
        The metrics' prefix, "eval_onnx" or "eval_onnx_sparse", and the metrics.
    """
    metrics = trainer.evaluate_onnx(folder)
    if exported is not None:
        metrics["eval_onnx_max_difference"] = exported.max_difference
        metrics["eval_onnx_mean_difference"] = exported.mean_difference
    yield "eval_onnx", metrics
    if (folder / SPARSE_FILE).is_file():
        yield "eval_onnx_sparse", trainer.evaluate_onnx(folder, SPARSE_FILE, "eval_onnx_sparse")
