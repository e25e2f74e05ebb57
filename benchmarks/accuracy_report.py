"""The page of the accuracy study: its results as Markdown."""

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.accuracy_curves import SEED_ENDING, dense_scores, seeds
from benchmarks.study import SAMPLES, how, interval, mean, when
from sparsification.report.tables import markdown

HEADS = [
    *("run", "epochs", "sparsity", "EM / F1, PyTorch", "EM / F1, ONNX Runtime", "share of the dense F1", "interval"),
    *("F1 set aside", "distillation loss set aside", "file", "processor minutes"),
]
Results = Mapping[str, dict]


def page(results: Results) -> str:
    """Write the page.

    Args:
        results: figures of the runs by name, as ``accuracy.py`` measures them; with the teacher's.
    """
    teacher, students = results["teacher"], {name: run for name, run in results.items() if name != "teacher"}
    one_shot = {name: run for name, run in students.items() if run["one_shot"]}
    trained = {name: run for name, run in students.items() if not run["one_shot"]}
    return "\n".join(
        [
            "# Accuracy: all-MiniLM-L6-v2 on New Wikipedia",
            "",
            f"{when(results)} Made by `make newwiki`. Other work ran on the machine: processor minutes are those of "
            "the whole command, with features, evaluations and export.",
            "",
            f"The teacher: {teacher['epochs']:g} epochs on 6,313 questions, {teacher['em']:.1f} / {teacher['f1']:.1f} "
            "EM / F1 on 1,289 questions of other articles. Recipes were chosen on 336 questions of four further "
            "articles, on which it has an F1 of "
            f"{teacher['aside_f1']:.1f}; the tables are of the 1,289. The interval has 95 % of {SAMPLES:,} paired "
            "bootstrap samples over questions. Two seeds: their figures, and the share of their mean. The distillation "
            "loss is that of the teacher at temperature 2. On another machine the models that runs start from were "
            "trained anew; shares are of those.",
            "",
            "![Share of the teacher's F1 over the epochs and over the sparsity](accuracy_curves.svg)",
            "",
            "## Without training",
            "",
            "The share is that of the model that was pruned or quantized.",
            "",
            table(one_shot, {name: dense_scores(results, name, run["start"]) for name, run in one_shot.items()}),
            "",
            "## With training",
            "",
            "The share is that of the teacher.",
            "",
            table(trained, {name: dense_scores(results, name, "teacher") for name in trained}),
            "",
            "## Sparsity of the encoder layers",
            "",
            *(f"- {name}: {', '.join(f'{share:.1%}' for share in run['sparsity'])}" for name, run in students.items()),
            "",
            "## How each was run",
            "",
            *(f"- {name}: {how(run)}{anew(run)}" for name, run in results.items()),
            "",
        ]
    )


def table(runs: Results, dense: Results) -> str:
    """Figures of runs, those of two seeds in one row, the best first within a sparsity.

    Args:
        runs: figures of runs by name.
        dense: scores of the model that each is compared with.
    """
    rows = []
    names = [name for name in runs if not name.endswith(SEED_ENDING)]
    for name in sorted(names, key=lambda name: (round(mean(runs[name]["sparsity"]), 2), -runs[name]["f1"])):
        both, compared = ([figures[each] for each in seeds(runs, name)] for figures in (runs, dense))
        questions = np.mean([run["f1_of_questions"] for run in both], axis=0)
        low, high = interval(questions, np.mean([run["f1_of_questions"] for run in compared], axis=0))
        onnx = [run["onnx"] for run in both if "onnx_f1" in run["onnx"]]
        rows.append(
            [
                *(name, f"{both[0]['epochs']:g}", f"{mean(both[0]['sparsity']):.1%}"),
                *(scores(both, "em", "f1"), "; ".join(map(engine_scores, onnx))),
                f"{mean([run['f1'] for run in both]) / mean([run['f1'] for run in compared]):.1%}",
                *(f"{low:.1%} to {high:.1%}", f"{mean([run['aside_f1'] for run in both]):.1f}"),
                f"{mean([run['aside_distillation_loss'] for run in both]):.3f}",
                *(f"{both[0]['megabytes']:.1f} MB", minutes(both)),
            ]
        )
    return markdown((HEADS, rows))


def scores(runs: Sequence[Mapping[str, float]], em: str, f1: str) -> str:
    """EM / F1 of each run."""
    return "; ".join(f"{run[em]:.1f} / {run[f1]:.1f}" for run in runs)


def engine_scores(onnx: Mapping[str, float]) -> str:
    """EM / F1 in ONNX Runtime: of ``model.onnx``, and of ``model.sparse.onnx`` where there is one."""
    dense = scores([onnx], "onnx_exact_match", "onnx_f1")
    if "onnx_sparse_f1" not in onnx:
        return dense
    return f"{dense}, sparse {scores([onnx], 'onnx_sparse_exact_match', 'onnx_sparse_f1')}"


def anew(run: dict) -> str:
    """F1 of the models that were trained again for a run."""
    words = [f"{name} {scores['f1']:.1f}" for name, scores in run.get("trained_anew", {}).items()]
    return f"; trained anew, F1: {', '.join(words)}" if words else ""


def minutes(runs: Sequence[dict]) -> str:
    """Mean processor minutes."""
    measured = [run["cpu_minutes"] for run in runs if run["cpu_minutes"] is not None]
    return f"{mean(measured):.0f}" if measured else "not measured"
