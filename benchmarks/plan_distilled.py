"""What planned and uniformly pruned models of one latency keep of question answering after an epoch of distillation.

    make plan-distilled, or python -m benchmarks.plan_distilled --data DIR --work_dir DIR [--runs NAME ...]

Data, teacher and the model to start from are those of ``benchmarks/accuracy.py``: with its work folder they need not be
trained again. Recipes are those of ``sparsification plan --num_train_epochs 1`` from 512 questions; their rivals:
``benchmarks/plan_rivals.py``. Results are in ``plan_distilled.json``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from benchmarks import accuracy, study
from benchmarks.plan_rivals import (
    PLANNED,
    SETTING,
    VOCABULARY,
    Measured,
    measure,
    page_of,
    recipe_for,
    rival_runs,
    served_file,
)
from benchmarks.study import ROOT, run_study
from sparsification.atomic_io import atomic_write_text
from sparsification.plan.costs import time_files

RESULTS, PAGE = (ROOT / "benchmarks" / name for name in ("plan_distilled.json", "plan_distilled.md"))
LENGTH = 384  # tokens of a question and its context


@dataclass(frozen=True)
class Run(accuracy.Run):
    """A recipe in an epoch of distillation."""

    start: str = "one_epoch"
    speedup: int = 0
    kind: str = PLANNED  # one of KINDS


RUNS = {name: Run(**vars(accuracy.RUNS[name])) for name in ("teacher", "one_epoch")} | rival_runs(Run, "distilled_")


def main() -> None:
    """Do the runs that have not been done, and write the page."""
    trained = [name for name, run in RUNS.items() if run.recipe]
    run_study(__doc__, "newwiki-train.json and newwiki-validation.json", Study, RUNS, trained)


class Study(accuracy.Study):
    """Runs of run_qa.py by planned recipes."""

    runs, results_file, page_file = RUNS, RESULTS, PAGE

    @cached_property
    def measured(self) -> Measured:
        """Costs and losses of the dense model; kept in the work folder."""
        folder = self.model("one_epoch")
        model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        return measure(model, tokenizer, self.train, LENGTH, self.work / "measured")

    def recipe(self, run: study.Run) -> str:
        """Write the recipe of a run."""
        assert isinstance(run, Run)
        path = self.work / f"{run.recipe}.yaml"
        atomic_write_text(path, recipe_for(self.measured, run.kind, run.speedup, epochs=1.0))
        return str(path)

    def measure(self, name: str, folder: Path) -> dict:
        """Collect the figures of a run, and time its file against the dense costs."""
        own = self.scores(folder)
        (milliseconds,) = time_files([served_file(folder)], SETTING, VOCABULARY)
        return {
            **self.figures(name, folder),
            "f1": own.get("eval_onnx_sparse_f1", own["eval_onnx_f1"]),
            "teacher_f1": self.scores(self.model("teacher"))["eval_f1"],
            "measured_speedup": self.measured.costs.dense.milliseconds / milliseconds,
        }

    def write_page(self) -> None:
        """Write the page."""
        atomic_write_text(PAGE, page(self.results))


def page(results: Mapping[str, dict]) -> str:
    """Write the page.

    Args:
        results: figures of the runs by name.
    """
    teacher = next(iter(results.values()))["teacher_f1"]
    text = (
        "Made by `make plan-distilled`. A MiniLM that answers questions of New Wikipedia (`accuracy.md`), pruned and "
        f"quantized in one epoch on the logits and layers of a teacher with an F1 of {teacher:.1f}. In int8: "
        "`model.sparse.onnx`, of smaller models `model.onnx`; one thread, 128 tokens. The ratio is what the planned "
        "model loses over what this one loses, the means of the seeds."
    )
    title = "Planned and uniform sparsity at the same latency, after an epoch of distillation"
    return page_of(title, text, results, {"F1": ("f1", teacher, ".1f")})


if __name__ == "__main__":
    main()
