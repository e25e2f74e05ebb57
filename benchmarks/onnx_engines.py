"""What do exported models cost in the engines that people run? Latency, throughput and size, pruned and quantized.

    make bench-onnx, or python -m benchmarks.onnx_engines --work_dir DIR [--model DIR] [--rounds 5]

The models are all-MiniLM-L6-v2's shape (BERT, 6 layers, 384 wide) with random weights, since only speed is measured, or
a saved model. Recipes prune and quantize them at one stroke and the project's own export, with its check, writes them:
what is timed here is what users get. Each engine runs in its own environment (``engine_worker.py``) on one thread.

The machine may be shared: all models in all engines take turns in every round, so that its noise hits them alike, and
the medians over the rounds are compared. About an hour, and 10 GB of memory at batch 16 and length 384.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForQuestionAnswering, BertConfig, BertForQuestionAnswering, PreTrainedModel

from benchmarks.onnx_engines_report import FP32, INT8, INT8_1X4, INT8_4X1, INT8_UNSTRUCTURED, report
from sparsification.cpu import has_vnni
from sparsification.export.onnx import export_onnx
from sparsification.manager import ScheduledModifierManager
from sparsification.model_io import position_limit
from sparsification.report.environment import cpu_name

ROOT = Path(__file__).resolve().parent.parent
WORKER = Path(__file__).resolve().parent / "engine_worker.py"
SPARSITY = 0.9
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUTS = ("start_logits", "end_logits")

PRUNING = r"""
pruning_modifiers:
  - !GMPruningModifier
    params: ['re:.*encoder\.layer\.\d+\..*(query|key|value|dense)\.weight']
    init_sparsity: 0.0
    final_sparsity: {sparsity}
    start_epoch: 0.0
    end_epoch: 1.0
    mask_type: {mask_type}
"""
HALVING = r"""
layer_modifiers:
  - !LayerPruningModifier
    layers: ['re:.*encoder\.layer\.\d*[13579]']
"""
QUANTIZATION = """
quantization_modifiers:
  - !QuantizationModifier
    start_epoch: 0.0
"""


@dataclass(frozen=True)
class Variant:
    """One row of the table in each engine."""

    name: str
    mask_type: str | None = None  # of the pruned encoder; None: dense
    int8: bool = False
    halved: bool = False  # every second layer only

    def recipe(self) -> str:
        """What makes it out of the dense fp32 model."""
        parts = ["training_modifiers:\n  - !EpochRangeModifier\n    start_epoch: 0.0\n    end_epoch: 1.0\n"]
        if self.mask_type is not None:
            parts.append(PRUNING.format(sparsity=SPARSITY, mask_type=self.mask_type))
        if self.halved:
            parts.append(HALVING)
        if self.int8:
            parts.append(QUANTIZATION)
        return "".join(parts)


VARIANTS = (
    Variant(FP32),
    Variant("fp32 90 % unstructured", "unstructured"),
    Variant("fp32 90 % 1x4", "[1, 4]"),
    Variant("fp32 90 % 4x1", "[4, 1]"),
    Variant(INT8, int8=True),
    Variant(INT8_UNSTRUCTURED, "unstructured", int8=True),
    Variant(INT8_1X4, "[1, 4]", int8=True),
    Variant(INT8_4X1, "[4, 1]", int8=True),
    Variant("half the layers, fp32 dense", halved=True),
    Variant("half the layers, int8 dense", int8=True, halved=True),
    Variant("half the layers, int8 90 % 1x4", "[1, 4]", int8=True, halved=True),
)
PYTHONS = {
    "onnxruntime": Path(sys.executable),
    "openvino": ROOT / ".venv-openvino" / "bin" / "python",
    "deepsparse": ROOT / ".venv-deepsparse" / "bin" / "python",
}
TARGETS = {"onnxruntime": "onnxruntime", "openvino": "onnxruntime", "deepsparse": "deepsparse"}  # of each engine's file


def main() -> None:
    """Make the models, time them, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="a saved model, of which the fp32 weights are taken")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one measurement, three runs at least")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: where others use the CPU, too")
    parser.add_argument("--zstd_level", type=int, default=19)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "onnx_engines.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    model = load_model(args.model)
    config, limit = model.config, position_limit(model)
    if limit is not None and max(args.lengths) > limit:
        parser.error(f"--lengths {max(args.lengths)}: the model has {limit} positions")

    paths, files = {}, {}
    for variant in VARIANTS:
        paths[variant.name] = export(variant, args.model, args.work_dir)
        files[variant.name] = sizes(paths[variant.name], args.zstd_level)
    results = {
        "date": str(date.today()),
        "cpu": cpu_name(),
        "vnni": has_vnni(),
        "system": platform.system(),
        "model": f"{args.model.name if args.model else 'random weights'}: {config.num_hidden_layers} layers, "
        f"{config.hidden_size} wide, {config.num_attention_heads} heads, intermediate {config.intermediate_size}, "
        f"vocabulary {config.vocab_size}",
        "rounds": args.rounds,
        "seconds": args.seconds,
        "clock": args.clock,
        "zstd_level": args.zstd_level,
        "batches": args.batches,
        "lengths": args.lengths,
        "models": [variant.name for variant in VARIANTS],
        "files": files,
        "engines": {},
        "cells": [],
    }
    workers = [Worker(engine, python, args.work_dir) for engine, python in PYTHONS.items()]
    results["engines"] = {worker.engine: worker.version for worker in workers}
    for batch in args.batches:
        for length in args.lengths:
            print(f"batch {batch}, length {length}", flush=True)
            shape = {"batch": batch, "length": length, "vocabulary": config.vocab_size}
            entrants = [Entrant(name, worker, paths[name][worker.engine]) for name in paths for worker in workers]
            results["cells"] += measure(entrants, args.rounds, args.seconds, shape)
            for worker in workers:
                worker.ask({"do": "unload"})
            # What is there is written, should the rest be interrupted.
            args.output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            args.output.write_text(report(results), encoding="utf-8")
    for worker in workers:
        worker.stop()
    print(args.output.read_text(encoding="utf-8"))


# The models


def load_model(folder: Path | None) -> PreTrainedModel:
    """The dense fp32 model: a saved one, or MiniLM's shape with the same random weights each time."""
    if folder is not None:
        return AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    torch.manual_seed(0)
    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    return BertForQuestionAnswering(BertConfig(**shape)).eval()


def features(model: PreTrainedModel, batches: int) -> list[dict[str, Tensor]]:
    """Random ids, four rows a batch, the last one a quarter padding."""
    generator = torch.Generator().manual_seed(0)
    shape = 4, min(128, position_limit(model) or 128)
    mask = torch.ones(shape, dtype=torch.long)
    mask[-1, shape[1] * 3 // 4 :] = 0
    made = [torch.randint(model.config.vocab_size, shape, generator=generator) for _ in range(batches)]
    return [dict(zip(INPUTS, (ids, mask, torch.zeros_like(ids)), strict=True)) for ids in made]


def transform(model: PreTrainedModel, variant: Variant) -> None:
    """Prune and quantize by the variant's recipe at one stroke; a few batches set the ranges."""
    manager = ScheduledModifierManager.from_yaml(variant.recipe())
    manager.initialize(model)
    manager.apply_one_shot()
    if variant.int8:
        with torch.no_grad():
            for batch in features(model, 4):
                model(**batch)
    manager.finalize()


def export(variant: Variant, folder: Path | None, work_dir: Path) -> dict[str, Path]:
    """Write a variant in the forms that the engines want, and give each engine's file."""
    model = load_model(folder)
    transform(model, variant)
    place = work_dir / variant.name.replace("%", "percent").replace(",", "").replace(" ", "-")
    paths = {}
    for target in dict.fromkeys(TARGETS.values()):
        kept = export_onnx(
            model,
            place / target,
            input_names=INPUTS,
            output_names=OUTPUTS,
            check_batches=features(model, 2),
            target=target,
        )
        paths[target] = kept.path
        print(f"exported {variant.name} for {target}", flush=True)
    return {engine: paths[target] for engine, target in TARGETS.items()}


def sizes(paths: dict[str, Path], zstd_level: int) -> dict[str, dict]:
    """Bytes of each engine's file, plain and through zstd; None without the package zstandard."""
    compressed = {path: zstd_bytes(path, zstd_level) for path in set(paths.values())}
    return {engine: {"bytes": path.stat().st_size, "zstd": compressed[path]} for engine, path in paths.items()}


def zstd_bytes(path: Path, level: int) -> int | None:
    """A file's compressed size; None where the package zstandard is missing."""
    try:
        import zstandard
    except ImportError:
        return None
    return len(zstandard.ZstdCompressor(level=level).compress(path.read_bytes()))


# The measurement


class Worker:
    """An engine in a process of its own, in its own environment.

    An engine that refuses a model takes its process with it. Then there is a new one, without that model.

    Args:
        engine: one of ``ENGINES``.
        python: of the engine's environment; if there is none, every order is answered with that.
        log_dir: where what the engine prints goes.
    """

    def __init__(self, engine: str, python: Path, log_dir: Path):
        self.engine = engine
        self.python = python
        self.log = log_dir / f"{engine}.log"
        self.loaded: dict[str, dict] = {}  # the orders to load what is loaded
        self.version: str | None = None
        self._process: subprocess.Popen | None = None
        self.log.unlink(missing_ok=True)
        if python.is_file():
            self._start()

    def _start(self) -> None:
        self._log_began = len(self.log.read_text(encoding="utf-8", errors="replace")) if self.log.exists() else 0
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NM_DISABLE_ANALYTICS": "1"}
        with self.log.open("a", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [str(self.python), str(WORKER), self.engine],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
            )
        line = self._process.stdout.readline()
        if line:
            self.version = json.loads(line)["version"]
        else:
            self.stop()

    def ask(self, order: dict) -> dict:
        """Give an order and wait for the answer; ``error`` says why there is none."""
        if self._process is None:
            return {"error": f"no environment: {self.python.parent.parent.name} has no {self.engine}"}
        line = ""
        try:
            print(json.dumps(order), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass  # it died between two orders: as if it had died of this one
        if line:
            answer = json.loads(line)
        else:
            answer = {"error": self._last_words()}
            self.loaded.pop(order.get("name"), None)
            self._start()
            for loading in list(self.loaded.values()):
                self.ask(loading)
        if order["do"] == "load" and "error" not in answer:
            self.loaded[order["name"]] = order
        if order["do"] == "unload":
            self.loaded.clear()
        return answer

    def _last_words(self) -> str:
        """Why the process died, as far as its log tells."""
        status = self._process.wait()
        lines = self.log.read_text(encoding="utf-8", errors="replace")[self._log_began :].splitlines()
        errors = [line.strip() for line in lines if "error" in line.lower()]
        return errors[-1] if errors else f"the process died with status {status}"

    def stop(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process = None


@dataclass(frozen=True)
class Entrant:
    """A model in an engine."""

    name: str
    worker: Worker
    path: Path
    library: Path | None = None  # of operators that the model needs

    @property
    def key(self) -> tuple[str, str]:
        return self.name, self.worker.engine


def measure(
    entrants: Sequence[Entrant], rounds: int, seconds: float, shape: dict[str, int], threads: int = 1
) -> list[dict]:
    """Load all models and time them on features of one shape, in turns.

    Args:
        entrants: of one name the first one's outputs are what the others' are compared with.
        rounds: how often it is each one's turn.
        seconds: of one turn.
        shape: batch, length and vocabulary.
        threads: that each may compute on.

    Returns:
        A cell for each model and engine: ``wall`` and ``cpu``, the rounds' medians in ms, and ``difference``, the mean
        one from the first outputs for its name in their standard deviations; or ``refused``, the reason.
    """
    cells, reference = {}, {}
    for entrant in entrants:
        cell = {"model": entrant.name, "engine": entrant.worker.engine, "batch": shape["batch"]}
        cell |= {"length": shape["length"], "threads": threads}
        cells[entrant.key] = cell
        order = {"do": "load", "name": entrant.name, "path": str(entrant.path), "threads": threads} | shape
        if entrant.library is not None:
            order["library"] = str(entrant.library)
        answer = entrant.worker.ask(order)
        if "error" in answer:
            cell["refused"] = answer["error"].replace(str(entrant.path), entrant.name)
            continue
        outputs = np.array(answer["outputs"])
        expected = reference.setdefault(entrant.name, outputs)
        cell |= {"wall": [], "cpu": [], "difference": float(np.abs(outputs - expected).mean() / expected.std())}
    for number in range(rounds):
        # Forth and back, so that none always follows the same one.
        for entrant in entrants if number % 2 == 0 else reversed(entrants):
            cell = cells[entrant.key]
            if "refused" in cell:
                continue
            answer = entrant.worker.ask({"do": "time", "name": entrant.name, "seconds": seconds})
            if "error" in answer:
                cell["refused"] = answer["error"]
                continue
            for clock in ("wall", "cpu"):
                cell[clock].append(statistics.median(answer[clock]))
    return list(cells.values())


if __name__ == "__main__":
    main()
