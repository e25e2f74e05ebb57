"""Which of several runs is the one to take? Scores against zeros, size and speed, from the reports that they left."""

from collections.abc import Sequence
from pathlib import Path

from sparsification.report.results import ReportError
from sparsification.report.tables import Entry, model_table, plain
from sparsification.report.unreported import load_results


def compare(folders: Sequence[Path], plot: Path | None = None) -> str:
    """Put runs side by side, those with the fewest zeros first.

    Args:
        folders: output folders of runs, at least one with a recipe.
        plot: where to draw the scores, too; a .png or .svg file.

    Returns:
        A table with each run's model and, where it was exported, its ONNX file.

    Raises:
        ReportError: a folder has no report, or the picture cannot be drawn.
    """
    runs = load_results(folders)
    entries = [
        (f"{result.name}, {model.name}", result, model)
        for result in runs
        for model in result.models
        if model.name != "teacher"
    ]
    entries.sort(key=lambda entry: entry[2].sparsity or 0.0)
    lines = [plain(model_table(entries))]
    if len({result.data.get("evaluation") for result in runs}) > 1:
        lines.append("The scores are of different data: they do not compare.")
    if len({(result.machine, result.tokens) for result in runs}) > 1:
        lines.append("Speed was measured on different machines, or on features of different lengths.")
    if plot is not None:
        draw(entries, plot)
        lines.append(f"The picture is in {plot}.")
    return "\n\n".join(lines)


def draw(entries: Sequence[Entry], path: Path) -> None:
    """Draw each score against zeros and against latency, one point for each model.

    Raises:
        ReportError: matplotlib is missing, or the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ReportError("--plot needs matplotlib: pip install matplotlib") from error

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    labels = list(dict.fromkeys(label for _, _, model in entries for label in model.scores))
    places = {
        "zeros in the encoder, %": lambda model: None if model.sparsity is None else 100 * model.sparsity,
        "latency on one thread, ms": lambda model: model.latency,
    }
    for panel, (title, place) in zip(panels, places.items(), strict=True):
        for index, label in enumerate(labels):
            points = [
                (place(model), model.scores[label], name)
                for name, _, model in entries
                if place(model) is not None and label in model.scores
            ]
            for number, (x, y, name) in enumerate(points):
                panel.plot(x, y, "os^D"[index % 4], color=f"C{index}", label="" if number else label)
                panel.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8)
        panel.set_xlabel(title)
        panel.margins(0.25)
        panel.grid(alpha=0.3)
        if panel.get_legend_handles_labels()[1]:
            panel.legend()
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise ReportError(f"--plot {path}: {error}") from error
