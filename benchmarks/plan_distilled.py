"""What planned and uniformly pruned models of one latency keep of question answering after an epoch of distillation.

    make plan-distilled, or python -m benchmarks.plan_distilled --data DIR --work_dir DIR [--runs NAME ...]

Data, teacher and the model to start from are those of ``benchmarks/accuracy.py``: with its work folder they need not be
trained again. Recipes are those of ``sparsification plan --num_train_epochs 1`` from 512 questions; their rivals:
``benchmarks/plan_rivals.py``. Results are in ``plan_distilled.json``, with what each question has lost to the teacher.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from benchmarks import accuracy, study
from benchmarks.plan_rivals import (
    PLANNED,
    Measured,
    Score,
    measure,
    measured_speedup,
    page_of,
    recipe_for,
    rival_runs,
    served_file,
)
from benchmarks.study import ROOT, file_flags, run_study
from sparsification.atomic_io import atomic_write_text

RESULTS, PAGE = (ROOT / "benchmarks" / name for name in ("plan_distilled.json", "plan_distilled.md"))
LENGTH = 384  # tokens of a question and its context
STAGES = {"model.onnx": "eval_onnx", "model.sparse.onnx": "eval_onnx_sparse"}  # of the evaluation of a file


@dataclass(frozen=True)
class Run(accuracy.Run):
    """A recipe in an epoch of distillation."""

    start: str = "one_epoch"
    speedup: int = 0
    kind: str = PLANNED  # one of KINDS


RUNS = {
    **{name: Run(**vars(accuracy.RUNS[name])) for name in ("teacher", "one_epoch")},
    "dense": Run(one_shot=True),
    **rival_runs(Run, "distilled_"),
}


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

    def flags(self, name: str, output: Path) -> list[str]:
        """The dense model is exported, too; a trial of pruning by reconstruction takes minutes."""
        export = file_flags({"onnx_export_path": output / "onnx"}) if name == "dense" else []
        return [*super().flags(name, output), *export, "--skip_trial"]

    def measure(self, name: str, folder: Path) -> dict:
        """Collect the figures of a run, and time its file and the dense one in turns."""
        own, stage, teacher = self.scores(folder), STAGES[served_file(folder).name], self.model("teacher")
        before, after = self.f1_of_questions(teacher), self.f1_of_questions(folder, stage)
        return {
            **self.figures(name, folder),
            "f1": own[f"{stage}_f1"],
            "teacher_f1": self.scores(teacher)["eval_f1"],
            "lost_by_questions": [best - left for best, left in zip(before, after, strict=True)],
            "measured_speedup": measured_speedup(self.model("dense"), folder),
        }

    def write_page(self) -> None:
        """Write the page."""
        atomic_write_text(PAGE, page(self.results))


def page(results: Mapping[str, dict]) -> str:
    """Write the page.

    Args:
        results: figures of the runs by name.
    """
    teachers = sorted({f"{run['teacher_f1']:.1f}" for run in results.values()})
    text = (
        "Made by `make plan-distilled`. A MiniLM that answers questions of New Wikipedia (`accuracy.md`), pruned and "
        f"quantized in one epoch on the logits and layers of a teacher with an F1 of {' or '.join(teachers)}. In int8: "
        "`model.sparse.onnx`, of smaller models `model.onnx`; one thread, 128 tokens. Two seeds order the data. "
        "Models are planned from the costs of the machine that they ran on. The ratio is what the planned model loses "
        "of the teacher's F1 over what this one does: mean of the seeds, and the 95 % interval of the paired bootstrap "
        "over the questions. Below 0 the planned model has a higher F1 than the teacher."
    )
    title = "Planned and uniform sparsity at the same latency, after an epoch of distillation"
    return page_of(title, text, results, {"F1": Score("f1", ".1f", lambda run: run["lost_by_questions"])})


if __name__ == "__main__":
    main()
