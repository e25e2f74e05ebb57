"""How do time and memory of a pruned training step grow with the model, and with a second process?

    python -m benchmarks.scale [--shapes minilm bert-base ...] [--rounds 3] [--output FILE]

Each shape trains in a process of its own, one thread, batches of 8 x 128 tokens: some steps of the plain Trainer, then
as many with masks, then some new masks of each kind alone. Two processes (torchrun, gloo) take half of the batch each;
only there does the clock on the wall count, since they wait for each other.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import torch
import transformers
from transformers import Trainer, TrainerCallback, TrainingArguments

from benchmarks.training_step import (
    BATCH,
    LENGTH,
    PRUNED,
    ROOT,
    SHAPES,
    WEIGHTS,
    SparseTrainer,
    TimedManager,
    make_data,
    make_model,
)
from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.report.environment import cpu_name
from sparsification.report.tables import markdown

MASKS = {"unstructured": "unstructured", "1x4 blocks": "[1, 4]", "2:4": "'2:4'", "unstructured, one ranking": "global"}
NEW_MASKS = """
pruning_modifiers:
  - !GMPruningModifier
    params: {weights}
    init_sparsity: {sparsity}
    final_sparsity: {sparsity}
    start_epoch: 0.0
    end_epoch: 100.0
    update_frequency: 0.01
    mask_type: {kind}
    global_sparsity: {ranking}
"""


class StepTimes(TrainerCallback):
    """Notes when each step begins, on both clocks, and what the manager has taken by then."""

    def __init__(self, manager: TimedManager | None):
        self.manager = manager
        self.begun: list[tuple[float, float, float]] = []

    def on_step_begin(self, args, state, control, **kwargs):
        managing = self.manager.seconds if self.manager else 0.0
        self.begun.append((time.process_time(), time.perf_counter(), managing))

    def medians(self) -> tuple[float, float, float]:
        """Processor seconds, wall seconds and the manager's of a step; the first two make masks and warm up."""
        pairs = list(zip(self.begun[2:], self.begun[3:], strict=False))
        return tuple(statistics.median(after[clock] - before[clock] for before, after in pairs) for clock in range(3))


def train(shape: str, rounds: int, recipe: str | None) -> tuple[float, float, float]:
    """Processor and wall seconds of a training step, and processor seconds of it that the recipe's manager took."""
    manager = None if recipe is None else TimedManager.from_yaml(recipe)
    with tempfile.TemporaryDirectory() as folder:
        times = StepTimes(manager)
        args = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=BATCH // int(os.environ.get("WORLD_SIZE", 1)),
            max_steps=rounds + 3,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        given = {"model": make_model(shape), "args": args, "train_dataset": make_data(), "callbacks": [times]}
        trainer = Trainer(**given) if recipe is None else SparseTrainer(**given, manager=manager)
        trainer.train()
    return times.medians()


def time_new_masks(shape: str, rounds: int) -> dict[str, float]:
    """Processor seconds that one update of all encoder masks takes, by their kind."""
    seconds = {}
    for name, kind in MASKS.items():
        ranking = kind == "global"
        recipe = NEW_MASKS.format(
            weights=WEIGHTS,
            sparsity=0.5 if "2:4" in kind else 0.9,
            kind="unstructured" if ranking else kind,
            ranking=ranking,
        )
        manager = ScheduledModifierManager.from_yaml(recipe)
        model = make_model(shape)
        manager.initialize(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        taken = []
        for step in range(rounds + 1):
            begun = time.process_time()
            manager.update(TrainingStep(step, 1), optimizer)
            taken.append(time.process_time() - begun)
        seconds[name] = statistics.median(taken[1:])
    return seconds


def worker(shape: str, rounds: int) -> None:
    """Measure one shape in this process and print the figures as JSON."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    plain, _, _ = train(shape, rounds, None)
    plain_memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    _, masked_wall, managing = train(shape, rounds, PRUNED)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"plain": plain, "managing": managing, "masked_wall": masked_wall}
    found |= {"plain_memory": plain_memory, "memory": memory}
    model = make_model(shape)
    found["parameters"] = sum(weight.numel() for weight in model.parameters())
    found["pruned"] = sum(w.numel() for n, w in model.named_parameters() if ".layer." in n and w.dim() == 2)
    if "WORLD_SIZE" not in os.environ:
        found["updates"] = time_new_masks(shape, rounds)
    if os.environ.get("RANK", "0") == "0":
        print("found " + json.dumps(found), flush=True)


def measure(shape: str, rounds: int, processes: int) -> dict:
    """Run the worker in as many processes."""
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "benchmarks.scale", "--worker", shape, "--rounds", str(rounds)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    return json.loads(line.removeprefix("found "))


def growth(xs: list[float], ys: list[float]) -> tuple[float, float]:
    """Slope of the line through the origin, by least squares, and its largest relative error."""
    slope = sum(x * y for x, y in zip(xs, ys, strict=True)) / sum(x * x for x in xs)
    return slope, max(abs(slope * x - y) / y for x, y in zip(xs, ys, strict=True))


def page(results: dict) -> str:
    """The results as Markdown."""
    one, two = results["one"], results["two"]
    heads = ["", "parameters", "pruned", "plain step", "masks", "peak memory, plain", "masks", "step of two processes"]
    rows = []
    for shape, found in one.items():
        wall = two[shape]["masked_wall"]
        rows.append(
            [
                *(shape, f"{found['parameters'] / 1e6:.1f} M", f"{found['pruned'] / 1e6:.1f} M"),
                *(f"{found['plain']:.2f} s", f"{found['managing'] / found['plain']:+.1%}"),
                f"{found['plain_memory'] / 2**30:.2f} GiB",
                f"{(found['memory'] - found['plain_memory']) / 2**20:+.0f} MiB",
                f"{wall:.2f} s ({found['masked_wall'] / wall:.2f}x as fast)",
            ]
        )
    updates = [[shape, *(f"{found['updates'][kind] * 1e3:.0f} ms" for kind in MASKS)] for shape, found in one.items()]
    lines = [
        "# What a pruned training step costs, from small to large",
        "",
        f"{results['date']}, {results['cpu']}; batches of {BATCH} x {LENGTH} tokens, one thread a process; "
        f"{results['versions']}. Processor time but for two processes; medians of {results['rounds']}. Made by "
        "`make bench-scale`.",
        "",
        *(markdown((heads, rows)), "", "One update of all masks:", "", markdown((["", *MASKS], updates)), ""),
        *("The rules, and how far the table is from them at most:", ""),
    ]
    pruned = [found["pruned"] / 1e7 for found in one.values()]
    for kind in MASKS:
        slope, error = growth(pruned, [found["updates"][kind] for found in one.values()])
        lines.append(f"- new masks, {kind}: linear in weights, {slope * 1e3:.0f} ms per 10 million ({error:.0%})")
    slope, error = growth(pruned, [found["plain"] for found in one.values()])
    lines.append(f"- plain step: linear in the encoder's weights, {slope:.2f} s per 10 million ({error:.0%})")
    base = min(one.values(), key=lambda found: found["parameters"])  # which has the activations, and little else
    more = [found for found in one.values() if found is not base]
    if more:
        slope, error = growth(
            [(found["parameters"] - base["parameters"]) / 1e8 for found in more],
            [(found["plain_memory"] - base["plain_memory"]) / 2**30 for found in more],
        )
        lines.append(f"- peak memory: beyond the smallest, {slope:.2f} GiB per 100 million parameters ({error:.0%})")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure all shapes, and write the page as the figures come."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "scale.md")
    parser.add_argument("--worker", metavar="SHAPE", choices=SHAPES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.worker, args.rounds)
        return
    results = {"date": str(date.today()), "cpu": cpu_name(), "rounds": args.rounds, "one": {}, "two": {}}
    results["versions"] = f"torch {torch.__version__}, Transformers {transformers.__version__}"
    for shape in args.shapes:
        results["one"][shape] = measure(shape, args.rounds, 1)
        results["two"][shape] = measure(shape, args.rounds, 2)
        args.output.write_text(page(results), encoding="utf-8")
        args.output.with_suffix(".json").write_text(json.dumps(results), encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
