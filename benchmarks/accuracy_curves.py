"""Two pictures of the accuracy study: the score over the epochs, and over the sparsity."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from benchmarks.study import mean
from sparsification.report.plots import DARK, style

SIZE = (9.2, 4.4)  # inches
SEED_ENDING = "_seed43"  # of a second run with another seed
LEARNING = {
    "80 % sparsity": ("reconstruct80", "prune80_1epoch", "prune80", "prune80_10epochs"),
    "90 % sparsity": ("reconstruct90", "prune90", "prune90_10epochs"),
    "80 % in 1x4 blocks": ("prune80_block4", "prune80_block4_10epochs"),
}
SPARSITY = {
    "minilm-6layers_prune80, three epochs": ("prune50", "prune80", "prune90", "prune95"),
    "reconstruction by error, no training": tuple(f"reconstruct{percent}_by_error" for percent in (50, 70, 80, 90)),
    "reconstruction, no training": ("reconstruct50", "reconstruct70", "reconstruct80", "reconstruct90"),
    "the tutorial's recipe, three epochs": ("tutorial80", "tutorial90"),
    "oBERT's recipe, three epochs": ("obert80", "obert90"),
    "magnitude, no training": ("magnitude50",),
}
Results = Mapping[str, dict]


def dense_scores(results: Results, name: str, dense: str) -> dict:
    """Scores of the dense model that a run is compared with: of the one that it has seen."""
    return results[name].get("trained_anew", {}).get(dense, results[dense])


def seeds(results: Results, name: str) -> list[str]:
    """Names of a run and of the same one with another seed, as far as they have been done."""
    return [each for each in (name, name + SEED_ENDING) if each in results]


def share(results: Results, name: str) -> float:
    """Of the teacher's F1, in [0, 1]: the mean over the seeds."""
    names = seeds(results, name)
    scores = [results[each]["f1"] for each in names]
    return mean(scores) / mean([dense_scores(results, each, "teacher")["f1"] for each in names])


def points(results: Results, names: Sequence[str], key: str) -> list[tuple[float, float]]:
    """Epochs or mean sparsity of runs, and the share of the teacher's F1; without those that have not been done."""
    found = {name: results[name] for name in names if name in results}
    # Of the sparsity of each layer, the mean.
    return [
        (sum(run[key]) / len(run[key]) if key == "sparsity" else run[key], share(results, name))
        for name, run in found.items()
    ]


def draw(results: Results, path: Path) -> None:
    """Draw both pictures side by side into an SVG file.

    Args:
        results: figures of the runs by name, as ``accuracy.py`` measures them; with the teacher's.
        path: of the file.
    """
    with style():
        figure = Figure(figsize=SIZE, layout="constrained")
        learning, sparsity = figure.subplots(1, 2, sharey=True)
        _draw(learning, results, LEARNING, "epochs", "epochs of training")
        _draw(sparsity, results, SPARSITY, "sparsity", "sparsity of the encoder")
        learning.set_ylabel("share of the teacher's F1")
        learning.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        sparsity.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        figure.savefig(path, format="svg", metadata={"Date": None})


def _draw(axes: Axes, results: Results, curves: Mapping[str, Sequence[str]], key: str, label: str) -> None:
    axes.axhline(1.0, color=DARK, linestyle=(0, (4, 2)), linewidth=1.1)
    for name, runs in curves.items():
        if curve := points(results, runs, key):
            axes.plot(*zip(*curve, strict=True), marker="o", label=name)
    axes.set_xlabel(label)
    axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.14))  # below, where no curve is
