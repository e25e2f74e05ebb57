"""How much faster is a sparse int8 model with our operators than without them? Latency in ONNX Runtime.

    make bench-sparse, or python -m benchmarks.sparse_runtime --work_dir DIR [--shapes minilm bert-base] [--threads 1]

Models of random weights are pruned and quantized at one stroke and exported by the project's own export; ``convert``
makes the sparse file. fp32, dense int8 and sparse int8 take turns in one process, and the medians are compared.
``--profile`` adds where the time of the sparse model goes, by operator.
"""

import argparse
import collections
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from transformers import BertConfig, BertForQuestionAnswering

from benchmarks.engine_worker import OUTPUTS
from benchmarks.engine_worker import features as fixed_features
from benchmarks.machine import cpu_name
from benchmarks.onnx_engines import INPUTS, PRUNING, QUANTIZATION, features
from sparsification.export import export_onnx
from sparsification.manager import ScheduledModifierManager
from sparsification.runtime import load
from sparsification.runtime.build import build
from sparsification.runtime.convert import convert

SHAPES = {
    "minilm": {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536},
    "bert-base": {},
}
EPOCHS = "training_modifiers:\n  - !EpochRangeModifier\n    start_epoch: 0.0\n    end_epoch: 1.0\n"


def main() -> None:
    """Make what is missing of the models, time them, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--work_dir", type=Path, required=True, help="models are kept there for the next time")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--sparsities", type=float, nargs="+", default=[0.8, 0.9])
    parser.add_argument("--mask_types", nargs="+", default=["[1, 4]"], help='also "unstructured"')
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 384])
    parser.add_argument("--batches", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one model in one round")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{cpu_name()}, ONNX Runtime {onnxruntime.__version__}; medians of {args.rounds} rounds in ms\n")
    print("| model | zeros | batch x length | threads | fp32 | int8 dense | int8 sparse | to fp32 | to int8 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for shape in args.shapes:
        fp32 = export(shape, None, None, args.work_dir)
        for mask_type in args.mask_types:
            for sparsity in args.sparsities:
                int8 = export(shape, sparsity, mask_type, args.work_dir)
                sparse = convert(int8).path
                for threads in args.threads:
                    sessions = [load(path, threads) for path in (fp32, int8, sparse)]
                    for batch in args.batches:
                        for length in args.lengths:
                            times = measure(sessions, fixed_features(batch, length, 30522), args.rounds, args.seconds)
                            kind = "1x4" if "4" in mask_type else mask_type
                            row = [shape, f"{sparsity:.0%} {kind}", f"{batch} x {length}", f"{threads}"]
                            row += [f"{value:.2f}" for value in times]
                            row += [f"{times[0] / times[2]:.1f}x", f"{times[1] / times[2]:.1f}x"]
                            print("| " + " | ".join(row) + " |", flush=True)
                if args.profile:
                    for length in args.lengths:
                        print(profile(sparse, length), flush=True)


def export(shape: str, sparsity: float | None, mask_type: str | None, work_dir: Path) -> Path:
    """Write a model if it is not there yet: fp32 and dense, or int8 and pruned."""
    name = f"{shape}-fp32" if sparsity is None else f"{shape}-{sparsity}-{mask_type.strip('[]').replace(', ', 'x')}"
    path = work_dir / name / "model.onnx"
    if path.exists():
        return path
    torch.manual_seed(0)
    model = BertForQuestionAnswering(BertConfig(**SHAPES[shape])).eval()
    if sparsity is not None:
        recipe = EPOCHS + PRUNING.format(sparsity=sparsity, mask_type=mask_type) + QUANTIZATION
        manager = ScheduledModifierManager.from_yaml(recipe)
        manager.initialize(model)
        manager.apply_once()
        with torch.no_grad():
            for batch in features(model, 2):
                model(**batch)
        manager.finalize()
    batches = features(model, 1)
    export_onnx(model, path.parent, input_names=INPUTS, output_names=OUTPUTS, check_batches=batches)
    return path


def measure(
    sessions: Sequence[onnxruntime.InferenceSession], inputs: dict[str, np.ndarray], rounds: int, seconds: float
) -> list[float]:
    """Median latency of each in ms; they take turns."""
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for session, mine in zip(sessions, times, strict=True):
            feed = {node.name: inputs[node.name] for node in session.get_inputs()}
            session.run(None, feed)
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                start = time.perf_counter()
                session.run(None, feed)
                mine.append(1000 * (time.perf_counter() - start))
    return [statistics.median(mine) for mine in times]


def profile(path: Path, length: int, runs: int = 20) -> str:
    """Where a run's time goes, by operator: medians over the runs, one thread."""
    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        options.register_custom_ops_library(str(build()))
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        for _ in range(runs):
            session.run(None, fixed_features(1, length, 30522))
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    nodes = collections.defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["args"]["op_name"], event["name"]].append(event["dur"])
    totals: collections.Counter[str] = collections.Counter()
    for (op_type, _), durations in nodes.items():
        totals[op_type] += statistics.median(durations)
    everything = sum(totals.values())
    lines = [
        f"  {op_type} {total / 1000:.2f} ms ({total / everything:.0%})" for op_type, total in totals.most_common(6)
    ]
    return "\n".join([f"\nby operator, length {length}: {everything / 1000:.2f} ms", *lines, ""])


if __name__ == "__main__":
    main()
