"""Does a planned model keep more than a uniformly pruned one that is as fast?

    make plan-accuracy, or python -m benchmarks.plan_accuracy --data DIR --work_dir DIR [--runs NAME ...]

The model, the texts and the questions are those of ``benchmarks/embedding.py``. For each speed-up over the dense model
in fp32, ``sparsification plan`` makes a recipe from 512 texts. Its rivals have int8, one mask pattern and one sparsity
in all layers, which is chosen so that the same costs predict the same latency, or are smaller dense models in int8 by
``--engine any``. All are pruned in one shot on 128 calibration texts, which the seed draws. Results are in
``plan_accuracy.json``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from transformers import AutoModel, AutoTokenizer

from benchmarks import embedding, study
from benchmarks.study import ROOT, SPARSE_FILE, file_flags, mean, run_study, start_model, when
from sparsification.atomic_io import atomic_write_text
from sparsification.plan.calibration import as_batches, read_rows
from sparsification.plan.costs import Costs, Setting, measure_costs, time_files
from sparsification.plan.losses import Losses, measure_losses
from sparsification.plan.planner import MILLISECONDS, Target, make_plan
from sparsification.plan.recipe import write_recipe
from sparsification.plan.shape import costs as shape_costs
from sparsification.plan.shape import losses as shape_losses
from sparsification.plan.shape import planner as shape_planner
from sparsification.plan.shape import recipe as shape_recipe
from sparsification.plan.shape.encoder import find_encoder
from sparsification.plan.units import BLOCKS, MASK_TYPES, UNSTRUCTURED, Unit, find_units

RESULTS, PAGE = (ROOT / "benchmarks" / name for name in ("plan_accuracy.json", "plan_accuracy.md"))
PLANNED, SMALLER = "planned", "smaller"
KINDS = (PLANNED, UNSTRUCTURED, BLOCKS, SMALLER)
LABELS = {PLANNED: PLANNED, SMALLER: "smaller, dense"}
SPEEDUPS = (5, 7)
SEEDS = (42, 43)
SAMPLES = 512  # texts
VOCABULARY = 30522
SETTING = Setting(batch=1, length=128, threads=1)
UNIFORM = """\
modifiers:
  - !EpochRangeModifier {{start_epoch: 0.0, end_epoch: 1.0}}
  - !ReconstructionPruningModifier
    params: __ENCODER__
    init_sparsity: 0.0
    final_sparsity: {sparsity:.4f}
    start_epoch: 0.0
    end_epoch: 0.0
    mask_type: {mask_type}
  - !QuantizationModifier
    start_epoch: 0.0
    disable_quantization_observer_epoch: 0.5
    num_calibration_steps: 64
    scheme:
      input_activations: {{num_bits: 8, symmetric: false}}
      weights: {{num_bits: 8, symmetric: true, strategy: channel}}
"""


@dataclass(frozen=True)
class Run(study.Run):
    """A recipe in one shot."""

    one_shot: bool = True
    flags: tuple[str, ...] = SPARSE_FILE
    speedup: int = 0
    kind: str = PLANNED  # or SMALLER, or the pattern of a uniform recipe
    seed: int = 42


RUNS = {"dense": Run(flags=())} | {
    f"{kind}_{speedup}x" + (f"_seed{seed}" if seed != SEEDS[0] else ""): Run(
        f"{kind}_{speedup}x",
        flags=() if kind == SMALLER else SPARSE_FILE,
        speedup=speedup,
        kind=kind,
        seed=seed,
    )
    for speedup in SPEEDUPS
    for kind in KINDS
    for seed in SEEDS
}


def main() -> None:
    """Do the runs that have not been done, and write the page."""
    run_study(__doc__, "newwiki-train.json and newwiki-validation.json", Study, RUNS)


@dataclass(frozen=True)
class Measured:
    """What plans are made from."""

    units: Sequence[Unit]
    costs: Costs
    losses: Losses
    shape_costs: shape_costs.ShapeCosts
    shape_losses: shape_losses.ShapeLosses


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
        rows = read_rows(self.texts, model, tokenizer, SAMPLES, SETTING.length)
        batches = as_batches(rows, tokenizer)
        units = find_units(model, batches[0])
        encoder, kept = find_encoder(model), self.work / "measured"
        return Measured(
            units,
            measure_costs(model, tokenizer, rows, units, SETTING, kept, print),
            measure_losses(model, units, batches, kept, print),
            shape_costs.measure_costs(model, tokenizer, rows, encoder, "int8", SETTING, kept, print),
            shape_losses.measure_losses(model, encoder, batches, kept, print),
        )

    def recipe(self, run: study.Run) -> str:
        """Write the recipe of a run."""
        assert isinstance(run, Run)
        found, path = self.measured, self.work / f"{run.recipe}.yaml"
        limit = found.costs.dense.milliseconds / run.speedup
        target = Target(f"--speedup {run.speedup}", MILLISECONDS, limit)
        if run.kind == SMALLER:
            shape = shape_planner.make_plan(found.shape_costs, found.shape_losses, target).shape
            text = shape_recipe.write_recipe(found.shape_costs.encoder, shape, int8=True)
        elif run.kind == PLANNED:
            text = write_recipe(make_plan(found.units, found.costs, found.losses, target, ["int8"]))
        else:
            text = UNIFORM.format(
                sparsity=uniform_sparsity(found.costs, found.units, run.kind, limit), mask_type=MASK_TYPES[run.kind]
            )
        atomic_write_text(path, text)
        return str(path)

    def flags(self, name: str, output: Path) -> list[str]:
        """The reference of a recipe with two patterns is the dense model."""
        files = {"train_file": self.texts, "retrieval_file": self.pairs, "distill_teacher": start_model(self.work)}
        files |= {"onnx_export_path": output / "onnx"}
        return [*file_flags(files), "--seed", str(RUNS[name].seed)]

    def measure(self, name: str, folder: Path) -> dict:
        """Collect the figures of a run, and time its file and the dense one in turns."""
        own, dense = self.scores(folder), self.model("dense") / "onnx" / "model.onnx"
        sparse = folder / "onnx" / "model.sparse.onnx"
        file = sparse if sparse.exists() else folder / "onnx" / "model.onnx"
        times = time_files([dense, file], SETTING, VOCABULARY)
        return {
            **self.figures(name, folder),
            "mrr": own.get("eval_onnx_sparse_mrr_at_10", own["eval_onnx_mrr_at_10"]),
            "cosine": own.get("eval_onnx_sparse_cosine", own["eval_onnx_cosine"]),
            "measured_speedup": times[0] / times[1],
        }

    def write_page(self) -> None:
        """Write the page."""
        atomic_write_text(PAGE, page(self.results))


def uniform_sparsity(costs: Costs, units: Sequence[Unit], pattern: str, limit: float) -> float:
    """Sparsity of all layers at which a model takes so long, interpolated between those that were timed.

    Args:
        costs: of the layers and the model.
        units: of the model.
        pattern: of the masks; in int8.
        limit: milliseconds.
    """
    rest, tables = costs.of_units(units, "int8", MILLISECONDS)
    common = [option for option in tables[0] if option.pattern == pattern and all(option in table for table in tables)]
    times = [rest + sum(table[option] for table in tables) for option in common]
    return float(np.interp(limit, times[::-1], [option.sparsity for option in common][::-1]))


def page(results: Mapping[str, dict]) -> str:
    """Write the page.

    Args:
        results: figures of the runs by name; with those of the dense model.
    """
    dense = results["dense"]["mrr"]
    lines = [
        "# Planned and uniform sparsity at the same latency",
        "",
        f"{when(results)} Made by `make plan-accuracy`. all-MiniLM-L6-v2 as an embedding model, pruned in one shot "
        "without training: 1,289 questions search 262 paragraphs of New Wikipedia (`embedding.md`). "
        "`model.sparse.onnx` in int8, of smaller models `model.onnx`; one thread, 128 tokens. The dense model in fp32 "
        f"has an MRR@10 of {dense:.1%}. Two seeds draw the calibration texts. Lost are 1 - cosine to the dense "
        "embeddings, and points of MRR@10. The ratios are what the planned model loses over what this one loses, the "
        "means of the seeds.",
        "",
        "| aim | pruned | sparsity | measured speed-up | cosine | ratio of the losses | MRR@10 | ratio of the losses |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for speedup in SPEEDUPS:
        runs = {
            kind: [run for run in results.values() if (run["speedup"], run["kind"]) == (speedup, kind)]
            for kind in KINDS
        }
        for kind, found in runs.items():
            if not (found and runs[PLANNED]):
                continue
            cells = [f"{mean(found[0]['sparsity']):.1%}", "; ".join(f"{run['measured_speedup']:.2f}x" for run in found)]
            for key, best, form in (("cosine", 1.0, ".3f"), ("mrr", dense, ".1%")):
                own, planned = (best - mean([run[key] for run in each]) for each in (found, runs[PLANNED]))
                cells += ["; ".join(f"{run[key]:{form}}" for run in found), f"{planned / own:.2f}"]
            label = LABELS.get(kind, f"uniform, {kind}")
            lines.append(f"| {speedup}x | {label} | {' | '.join(cells)} |")
    machines = sorted({run["machine"] for run in results.values()})
    return "\n".join([*lines, "", *(f"- {machine}" for machine in machines), ""])


if __name__ == "__main__":
    main()
