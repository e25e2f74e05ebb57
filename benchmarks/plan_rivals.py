"""Planned models and their rivals of the same latency, for the studies of plans.

Rivals have int8, one mask pattern and one sparsity in all layers, which is chosen so that the same costs predict the
same latency, or are smaller dense models in int8 by ``--engine any``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from transformers import PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from benchmarks.study import SPARSE_FILE, interval, mean, when
from sparsification.plan.calibration import as_batches, read_rows
from sparsification.plan.costs import Costs, Setting, measure_costs, time_files
from sparsification.plan.drops import layer_names
from sparsification.plan.losses import Losses, measure_losses
from sparsification.plan.planner import MILLISECONDS, Choice, Plan, Target, make_plan
from sparsification.plan.recipe import write_recipe
from sparsification.plan.shape import costs as shape_costs
from sparsification.plan.shape import losses as shape_losses
from sparsification.plan.shape import planner as shape_planner
from sparsification.plan.shape import recipe as shape_recipe
from sparsification.plan.shape.encoder import find_encoder
from sparsification.plan.units import BLOCKS, UNSTRUCTURED, Option, Unit, find_units
from sparsification.report.tables import markdown

Run = TypeVar("Run")
PLANNED, SMALLER = "planned", "smaller"
KINDS = (PLANNED, UNSTRUCTURED, BLOCKS, SMALLER)
LABELS = {PLANNED: PLANNED, SMALLER: "smaller, dense"} | {kind: f"uniform, {kind}" for kind in (UNSTRUCTURED, BLOCKS)}
SPEEDUPS = (5, 7)
SEEDS = (42, 43)
SETTING = Setting(batch=1, length=128, threads=1)
SAMPLES = 512  # texts
VOCABULARY = 30522


def rival_runs(make: Callable[..., Run], prefix: str = "") -> dict[str, Run]:
    """All runs of a study, by name.

    Args:
        make: of a run, from the name of its recipe and its flags, speed-up, kind and seed.
        prefix: of the recipes' names.
    """
    return {
        f"{kind}_{speedup}x" + (f"_seed{seed}" if seed != SEEDS[0] else ""): make(
            f"{prefix}{kind}_{speedup}x",
            flags=() if kind == SMALLER else SPARSE_FILE,
            speedup=speedup,
            kind=kind,
            seed=seed,
        )
        for speedup in SPEEDUPS
        for kind in KINDS
        for seed in SEEDS
    }


@dataclass(frozen=True)
class Measured:
    """What plans are made from."""

    units: Sequence[Unit]
    layers: Sequence[str]
    costs: Costs
    losses: Losses
    shape_costs: shape_costs.ShapeCosts
    shape_losses: shape_losses.ShapeLosses


def measure(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Path, length: int, folder: Path
) -> Measured:
    """Measure costs and losses, or read what was measured before.

    Args:
        model: dense, in evaluation mode.
        tokenizer: of the model.
        texts: file with calibration data.
        length: tokens of an example at most.
        folder: where results are kept.
    """
    rows = read_rows(texts, model, tokenizer, SAMPLES, length)
    batches = as_batches(rows, tokenizer)
    units, encoder, layers = find_units(model, batches[0]), find_encoder(model), layer_names(model)
    return Measured(
        units,
        layers,
        measure_costs(model, tokenizer, rows, units, layers, SETTING, folder, print),
        measure_losses(model, units, batches, folder, print),
        shape_costs.measure_costs(model, tokenizer, rows, encoder, "int8", SETTING, folder, print),
        shape_losses.measure_losses(model, encoder, batches, folder, print),
    )


def recipe_for(found: Measured, kind: str, speedup: float, epochs: float = 0.0) -> str:
    """Write the recipe of a model that is as fast as asked for.

    Args:
        found: what was measured.
        kind: one of ``KINDS``.
        speedup: over the dense model in fp32.
        epochs: of training; 0: in one shot.
    """
    options: dict = {"epochs": epochs} if epochs else {"num_samples": SAMPLES}
    target = Target(f"--speedup {speedup}", MILLISECONDS, found.costs.dense.milliseconds / speedup)
    if kind == SMALLER:
        shape = shape_planner.make_plan(found.shape_costs, found.shape_losses, target).shape
        return shape_recipe.write_recipe(found.shape_costs.encoder, shape, int8=True, **options)
    if kind == PLANNED:
        drops = found.shape_losses.drops
        plan = make_plan(found.units, found.costs, found.losses, target, ["int8"], found.layers, drops)
    else:
        option = Option("int8", kind, uniform_sparsity(found.costs, found.units, kind, target.limit))
        plan = Plan(target, "int8", [Choice(unit, option, 0.0, 0.0, 0.0) for unit in found.units], {}, {}, {})
    return write_recipe(plan, **options)


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


def served_file(folder: Path) -> Path:
    """The ONNX file of a run that is timed: the sparse one if there is one."""
    sparse = folder / "onnx" / "model.sparse.onnx"
    return sparse if sparse.exists() else folder / "onnx" / "model.onnx"


def measured_speedup(dense: Path, folder: Path) -> float:
    """How many times as fast a run's served file is as the dense run's, in turns on one text of 128 tokens."""
    before, after = time_files([served_file(dense), served_file(folder)], SETTING, VOCABULARY)
    return before / after


@dataclass(frozen=True)
class Score:
    """A column of a page, and the one beside it with the ratio of the losses."""

    key: str  # in the figures of a run
    format: str
    lost: Callable[[Mapping], Sequence[float]]  # by a run: of each record, or one loss of all


def page_of(title: str, text: str, results: Mapping[str, dict], scores: Mapping[str, Score]) -> str:
    """A page that compares what planned models and their rivals lose.

    Args:
        title: of the page.
        text: after the days of the runs.
        results: figures of the runs by name.
        scores: by their names.
    """
    heads = ["aim", "pruned", "seeds", "layers", "sparsity", "measured speed-up"]
    heads += [head for name in scores for head in (name, "ratio of losses")]
    machines: dict[str, list[Mapping]] = {}  # a plan is for one of them
    for run in results.values():
        machines.setdefault(run["machine"], []).append(run)
    parts = [f"# {title}", f"{when(results)} {text}"]
    for machine, runs in machines.items():
        if rows := _rows(runs, list(scores.values())):
            parts += [f"{machine}:", markdown((heads, rows))]
    return "\n\n".join(parts) + "\n"


def _rows(results: Sequence[Mapping], scores: Sequence[Score]) -> list[list[str]]:
    rows = []
    for speedup in SPEEDUPS:
        runs = {
            kind: [run for run in results if (run.get("speedup"), run.get("kind")) == (speedup, kind)] for kind in KINDS
        }
        for kind, found in runs.items():
            if not (found and runs[PLANNED]):
                continue
            cells = [f"{speedup}x", LABELS[kind], "; ".join(str(run["seed"]) for run in found)]
            cells += [str(len(found[0]["sparsity"])), f"{mean(found[0]['sparsity']):.1%}"]
            cells.append("; ".join(f"{run['measured_speedup']:.2f}x" for run in found))
            for score in scores:
                planned, own = (np.mean([score.lost(run) for run in each], axis=0) for each in (runs[PLANNED], found))
                cells += ["; ".join(f"{run[score.key]:{score.format}}" for run in found), _ratio(planned, own)]
            rows.append(cells)
    return rows


def _ratio(planned: np.ndarray, own: np.ndarray) -> str:
    """The ratio of two mean losses (records,), and of several records its 95 % interval."""
    text = f"{planned.mean() / own.mean():.2f}"
    if len(own) == 1 or (planned == own).all():
        return text
    low, high = interval(planned, own)
    return f"{text} ({low:.2f} to {high:.2f})"
