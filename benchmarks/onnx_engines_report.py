"""What does ``onnx_engines.py`` say of what it has measured? Its results as Markdown, and the project's bars."""

import statistics

from sparsification.report.tables import markdown

FP32, INT8 = "fp32 dense", "int8 dense"
INT8_UNSTRUCTURED, INT8_1X4, INT8_4X1 = "int8 90 % unstructured", "int8 90 % 1x4", "int8 90 % 4x1"
BASELINE = FP32, "onnxruntime"
ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "deepsparse": "DeepSparse"}
# What the project has promised itself: model, engine, sequence length and how many times faster at batch 1.
SPEED_BARS = (
    (INT8, "onnxruntime", 128, 2.4),
    (INT8, "onnxruntime", 384, 2.0),
    (INT8_UNSTRUCTURED, "deepsparse", 128, 5.0),
    (INT8_UNSTRUCTURED, "deepsparse", 384, 3.7),
    (INT8_1X4, "deepsparse", 128, 5.0),
    (INT8_1X4, "deepsparse", 384, 3.7),
    (INT8_4X1, "deepsparse", 128, 5.0),
    (INT8_4X1, "deepsparse", 384, 3.7),
)
# Model, engine, and at most how much of the fp32 file.
SIZE_BARS = ((INT8, "onnxruntime", 0.27), (INT8, "deepsparse", 0.27))


def report(results: dict) -> str:
    """The results as Markdown."""
    engines = ", ".join(
        f"{ENGINES[name]} {(version or '(missing)').partition('-')[0]}" for name, version in results["engines"].items()
    )
    vnni = {True: "with VNNI", False: "without VNNI", None: "VNNI unknown"}[results["vnni"]]
    clock = {"wall": "wall-clock time", "cpu": "CPU time"}[results["clock"]]
    timed = [cell for cell in results["cells"] if "refused" not in cell]
    share = sum(sum(cell["cpu"]) for cell in timed) / max(sum(sum(cell["wall"]) for cell in timed), 1e-9)
    lines = [
        "# Exported models in the engines that people run",
        "",
        f"{results['date']}, one thread on {results['cpu']} ({vnni}), {results['system']}; {engines}. Model: "
        f"{results['model']}. Made by `make bench-onnx`.",
        "",
        f"Latency of a batch ({clock}, median over {results['rounds']} rounds in which all take turns), sequences a "
        "second, and how many times faster than fp32 dense in ONNX Runtime. The engines had the CPU for "
        f"{share:.0%} of the time; where that is much below 100 %, others used it, too. File sizes, plain and through "
        f"zstd (level {results['zstd_level']}), with their share of fp32 dense. The last column is the mean difference "
        "from ONNX Runtime's outputs for the same model, in their standard deviations: int8 models round.",
        "",
    ]
    shapes = [(batch, length) for batch in results["batches"] for length in results["lengths"]]
    cells = {(c["model"], c["engine"], c["batch"], c["length"]): c for c in results["cells"]}
    heads = ["model", "engine", *(f"batch {batch}, length {length}" for batch, length in shapes), "file", "zstd"]
    rows = []
    for model in results["models"]:
        for engine in results["engines"]:
            own = [cells.get((model, engine, *shape)) for shape in shapes]
            differences = [cell["difference"] for cell in own if cell and "difference" in cell]
            is_reference = engine == BASELINE[1] or not differences
            rows.append(
                [
                    *(model, ENGINES[engine]),
                    *(_speed(results, cells, cell) for cell in own),
                    *(_size(results["files"], model, engine, key) for key in ("bytes", "zstd")),
                    "" if is_reference else f"{max(differences):.3f}",
                ]
            )
    lines += [markdown(([*heads, "difference"], rows)), "", "## What we have promised", ""]
    lines.append(markdown((["promise", "bar", "measured", "reached"], bars(results, cells))))
    return "\n".join(lines) + "\n"


def _latency(results: dict, cell: dict | None) -> float | None:
    """Milliseconds, if they were measured."""
    return statistics.median(cell[results["clock"]]) if cell and "refused" not in cell else None


def _speed(results: dict, cells: dict, cell: dict | None) -> str:
    if cell is None:
        return "not measured"
    if "refused" in cell:
        reason = " ".join(cell["refused"].split())
        return f"refused: {reason[:120]}{'…' if len(reason) > 120 else ''}"
    latency = _latency(results, cell)
    text = f"{latency:.1f} ms, {1000 * cell['batch'] / latency:.1f}/s"
    baseline = _latency(results, cells.get((*BASELINE, cell["batch"], cell["length"])))
    return f"{text}, {baseline / latency:.2f}x" if baseline else text


def _size(files: dict, model: str, engine: str, key: str) -> str:
    size = files[model][engine][key]
    return (
        "no zstandard" if size is None else f"{size / 1e6:.1f} MB, {size / files[BASELINE[0]][BASELINE[1]][key]:.2f}x"
    )


def bars(results: dict, cells: dict) -> list[list[str]]:
    """What the project has promised itself, its bar, what was measured, and whether it holds."""
    rows = []
    for model, engine, length, bar in SPEED_BARS:
        latency = _latency(results, cells.get((model, engine, 1, length)))
        baseline = _latency(results, cells.get((*BASELINE, 1, length)))
        promise = f"{model} in {ENGINES[engine]}, batch 1, length {length}, against fp32 dense in ONNX Runtime"
        ratio = baseline / latency if baseline and latency else None
        reached = "" if ratio is None else "yes" if ratio >= bar else "no"
        rows.append([promise, f"{bar}x", "not measured" if ratio is None else f"{ratio:.2f}x", reached])
    files = results["files"]
    for model, engine, bar in SIZE_BARS:
        ratio = files[model][engine]["bytes"] / files[BASELINE[0]][BASELINE[1]]["bytes"]
        promise = f"file of {model} for {ENGINES[engine]}, against fp32 dense"
        rows.append([promise, f"at most {bar}x", f"{ratio:.3f}x", "yes" if ratio <= bar else "no"])
    return rows
