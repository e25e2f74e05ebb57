"""How long does an ONNX file take in one engine? Stand-alone: it runs in the engine's own environment, on orders.

    python benchmarks/engine_worker.py onnxruntime|openvino|deepsparse

The first line out is the engine's version, then there is one line of JSON in and one out, ``onnx_engines.py``'s:

    {"do": "load", "name": NAME, "path": PATH, "batch": 1, "length": 128, "vocabulary": 30522}  ->  {"outputs": [...]}
        with "threads": 2 it computes on as many; with "library": PATH ONNX Runtime gets these operators
    {"do": "time", "name": NAME, "seconds": 1.0}  ->  {"wall": [...], "cpu": [...]}
    {"do": "unload"}  ->  {}

What the engine refuses ends the process, by an exception or by an abort of the engine's own; stderr says why.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

MIN_RUNS = 3
OUTPUTS = ("start_logits", "end_logits")
Run = Callable[[], list[np.ndarray]]


def onnxruntime_run(path: str, inputs: dict[str, np.ndarray], threads: int, library: str | None) -> Run:
    """Load a model into ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    if library is not None:
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {node.name: inputs[node.name] for node in session.get_inputs()}
    return lambda: session.run(OUTPUTS, feed)


def openvino_run(path: str, inputs: dict[str, np.ndarray], threads: int, library: None) -> Run:
    """Load a model into OpenVINO, for these shapes and in true fp32: its own choice may be bf16."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    feed = {port.any_name: inputs[port.any_name] for port in model.inputs}
    model.reshape({name: list(array.shape) for name, array in feed.items()})
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()

    def run() -> list[np.ndarray]:
        outputs = request.infer(feed, share_inputs=True, share_outputs=True)
        return [outputs[name] for name in OUTPUTS]

    return run


def deepsparse_run(path: str, inputs: dict[str, np.ndarray], threads: int, library: None) -> Run:
    """Load a model into DeepSparse, for these shapes."""
    import deepsparse
    import onnx

    names = [node.name for node in onnx.load(path, load_external_data=False).graph.input]
    feed = [inputs[name] for name in names]
    with tempfile.TemporaryDirectory() as scratch:
        copy = shutil.copy(path, Path(scratch) / "model.onnx")  # it writes the shapes into the file
        shapes = [list(array.shape) for array in feed]
        engine = deepsparse.Engine(str(copy), batch_size=len(feed[0]), num_cores=threads, input_shapes=shapes)
    order = [engine.output_names.index(name) for name in OUTPUTS]

    def run() -> list[np.ndarray]:
        outputs = engine.run(feed, val_inp=False)
        return [outputs[index] for index in order]

    return run


LOADERS = {"onnxruntime": onnxruntime_run, "openvino": openvino_run, "deepsparse": deepsparse_run}


def features(batch: int, length: int, vocabulary: int) -> dict[str, np.ndarray]:
    """Inputs (batch, length), int64: the same ids in every environment, no padding."""
    ids = (7919 * np.arange(batch * length, dtype=np.int64) % vocabulary).reshape(batch, length)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def milliseconds(run: Run, seconds: float) -> dict[str, list[float]]:
    """Times of single runs, by the wall's clock and by this process's own; at least ``MIN_RUNS`` after a first one."""
    run()
    times: dict[str, list[float]] = {"wall": [], "cpu": []}
    end = time.perf_counter() + seconds
    while len(times["wall"]) < MIN_RUNS or time.perf_counter() < end:
        wall, cpu = time.perf_counter(), time.process_time()
        run()
        times["wall"].append(1000 * (time.perf_counter() - wall))
        times["cpu"].append(1000 * (time.process_time() - cpu))
    return times


def obey(order: dict, engine: str, runs: dict[str, Run]) -> dict:
    """Do one order; ``runs`` are the loaded models."""
    match order["do"]:
        case "load":
            inputs = features(order["batch"], order["length"], order["vocabulary"])
            run = LOADERS[engine](order["path"], inputs, order.get("threads", 1), order.get("library"))
            outputs = np.concatenate([np.asarray(output, dtype=np.float32).ravel() for output in run()])
            runs[order["name"]] = run
            return {"outputs": [round(float(value), 5) for value in outputs]}
        case "time":
            return milliseconds(runs[order["name"]], order["seconds"])
        case "unload":
            runs.clear()
            return {}
        case unknown:
            raise ValueError(f"there is no order {unknown!r}")


def main() -> None:
    """Answer until there are no more orders."""
    engine = sys.argv[1]
    # Engines print what they like: the answers get the real stdout, and that becomes stderr.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps({"version": __import__(engine).__version__}), file=answers)
    runs: dict[str, Run] = {}
    for line in sys.stdin:
        print(json.dumps(obey(json.loads(line), engine, runs)), file=answers)


if __name__ == "__main__":
    main()
