"""Does a planned model keep more than a uniformly pruned one that is as fast?

    make plan-accuracy, or python -m benchmarks.plan_accuracy --data DIR --work_dir DIR [--runs NAME ...]

The model, the texts and the questions are those of ``benchmarks/embedding.py``. For each speed-up over the dense model
in fp32, ``sparsification plan`` makes a recipe from 512 texts; its rivals: ``benchmarks/plan_rivals.py``. All are
pruned in one shot on 512 calibration texts, which the seed draws. Results are in ``plan_accuracy.json``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import AutoModel, AutoTokenizer

from benchmarks import embedding, study
from benchmarks.plan_rivals import (
    PLANNED,
    SETTING,
    Measured,
    Score,
    measure,
    measured_speedup,
    page_of,
    recipe_for,
    rival_runs,
)
from benchmarks.study import ROOT, file_flags, run_study, start_model
from sparsification.atomic_io import atomic_write_text

RESULTS, PAGE = (ROOT / "benchmarks" / name for name in ("plan_accuracy.json", "plan_accuracy.md"))


@dataclass(frozen=True)
class Run(study.Run):
    """A recipe in one shot."""

    one_shot: bool = True
    speedup: int = 0
    kind: str = PLANNED  # one of KINDS
    seed: int = 42


RUNS = {"dense": Run()} | rival_runs(Run)


def main() -> None:
    """Do the runs that have not been done, and write the page."""
    run_study(__doc__, "newwiki-train.json and newwiki-validation.json", Study, RUNS)


class Study(study.Study):
    """Runs of run_embedding.py."""

    script, runs, results_file, page_file = "examples/run_embedding.py", RUNS, RESULTS, PAGE

    def __init__(self, data: Path, work: Path) -> None:
        super().__init__(work)
        self.texts, self.pairs = work / "paragraphs_and_questions.txt", work / "questions.csv"
        embedding.write_data(data, work, self.pairs)

    @cached_property
    def measured(self) -> Measured:
        """Costs and losses of the dense model; kept in the work folder."""
        folder = start_model(self.work)
        model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        return measure(model, tokenizer, self.texts, SETTING.length, self.work / "measured")

    def recipe(self, run: study.Run) -> str:
        """Write the recipe of a run."""
        assert isinstance(run, Run)
        path = self.work / f"{run.recipe}.yaml"
        atomic_write_text(path, recipe_for(self.measured, run.kind, run.speedup))
        return str(path)

    def flags(self, name: str, output: Path) -> list[str]:
        files = {"train_file": self.texts, "retrieval_file": self.pairs, "onnx_export_path": output / "onnx"}
        return [*file_flags(files), "--seed", str(RUNS[name].seed)]

    def measure(self, name: str, folder: Path) -> dict:
        """Collect the figures of a run, and time its file and the dense one in turns."""
        own = self.scores(folder)
        return {
            **self.figures(name, folder),
            "mrr": own.get("eval_onnx_sparse_mrr_at_10", own["eval_onnx_mrr_at_10"]),
            "cosine": own.get("eval_onnx_sparse_cosine", own["eval_onnx_cosine"]),
            "measured_speedup": measured_speedup(self.model("dense"), folder),
        }

    def write_page(self) -> None:
        """Write the page."""
        atomic_write_text(PAGE, page(self.results))


def page(results: Mapping[str, dict]) -> str:
    """Write the page.

    Args:
        results: figures of the runs by name; with those of the dense model.
    """
    dense = results["dense"]["mrr"]
    text = (
        "Made by `make plan-accuracy`. all-MiniLM-L6-v2 as an embedding model, pruned in one shot without training: "
        "1,289 questions search 262 paragraphs of New Wikipedia (`embedding.md`). `model.sparse.onnx` in int8, of "
        f"smaller models `model.onnx`; one thread, 128 tokens. The dense model in fp32 has an MRR@10 of {dense:.1%}. "
        "Two seeds draw the calibration texts. Lost are 1 - cosine to the dense embeddings, and points of MRR@10. The "
        "ratios are what the planned model loses over what this one loses, the means of the seeds."
    )
    scores = {
        "cosine": Score("cosine", ".3f", lambda run: [1.0 - run["cosine"]]),
        "MRR@10": Score("mrr", ".1%", lambda run: [dense - run["mrr"]]),
    }
    return page_of("Planned and uniform sparsity at the same latency", text, results, scores)


if __name__ == "__main__":
    main()
