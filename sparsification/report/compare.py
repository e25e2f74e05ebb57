"""Comparison of several runs by a recipe: a table and Pareto plots, from the reports that the runs wrote."""

from collections.abc import Sequence
from pathlib import Path

from sparsification.atomic_io import atomic_write_text
from sparsification.report.page import html_charts, html_page, html_table
from sparsification.report.pareto import draw_pareto, pareto_panels
from sparsification.report.plots import to_svg
from sparsification.report.results import ReportError, RunResult
from sparsification.report.tables import Table, model_table, plain
from sparsification.report.unreported import load_results


def compare(folders: Sequence[Path], plot: Path | None = None) -> str:
    """Put runs side by side, the least sparse first.

    Args:
        folders: output folders of runs, at least one with a recipe.
        plot: file for Pareto plots of score against latency and size: .png, .svg or .pdf for a picture of both side by
            side, .html for a page with the table that also fits a phone.

    Returns:
        A table with the model of each run and its exported ONNX files.

    Raises:
        ReportError: a folder has no report, or the plot cannot be drawn or written.
    """
    runs = load_results(folders)
    table = comparison(runs)
    lines = [plain(table), *_remarks(runs)]
    if plot is not None:
        draw(runs, plot)
        lines.append(f"The plots are in {plot}.")
    return "\n\n".join(lines)


def comparison(runs: Sequence[RunResult]) -> Table:
    """The student and the exported models of all runs, the least sparse first."""
    entries = [
        (f"{run.name}, {model.name}", run, model) for run in runs for model in run.models if model.name != "teacher"
    ]
    return model_table(sorted(entries, key=lambda entry: entry[2].sparsity or 0.0))


def draw(runs: Sequence[RunResult], path: Path) -> None:
    """Draw the score of each model against its latency and its size.

    Args:
        runs: what to draw.
        path: file to write; its ending decides the format.

    Raises:
        ReportError: no run has a score with a latency or a size, or the file cannot be written.
    """
    panels = pareto_panels(runs)
    if not panels:
        raise ReportError(f"--plot {path}: no run has a score together with a latency or a file size")
    try:
        if path.suffix == ".html":
            pictures = [(panel.title, to_svg(draw_pareto([panel]), panel.title)) for panel in panels]
            notes = [f'<p class="note">{text}</p>' for text in _remarks(runs)]
            atomic_write_text(
                path,
                html_page(
                    "Comparison", [html_charts(pictures), "<h2>Models</h2>", html_table(comparison(runs)), *notes]
                ),
            )
        else:
            draw_pareto(panels).savefig(path, dpi=150)
    except (OSError, ValueError) as error:
        raise ReportError(f"--plot {path}: {error}") from error


def _remarks(runs: Sequence[RunResult]) -> list[str]:
    remarks = []
    if len({run.data.get("evaluation") for run in runs}) > 1:
        remarks.append("The runs were evaluated on different data: their scores cannot be compared.")
    if len({(run.machine, run.tokens) for run in runs}) > 1:
        remarks.append(
            "Latency was measured on different machines, or on features of different lengths: it cannot be compared."
        )
    return remarks
