"""What does ``sparse_runtime.py`` say of what it has measured? Its results as Markdown."""

import statistics
from collections.abc import Iterable

from sparsification.report.tables import markdown

FP32, DENSE = "fp32 dense", "int8 dense"
OURS = "onnxruntime"  # the engine of the sparse models: with our operators
BUSY = 0.95  # share of the CPU below which a row was made on a busy machine
NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "deepsparse": "DeepSparse"}


def variant_name(kind: str, sparsity: float) -> str:
    """The name of a sparse model; its kind is "int8 1x4", for example."""
    precision, mask = kind.split()
    return f"{precision} {sparsity:.0%} {mask}".replace("%", " %")


def milliseconds(results: dict, cell: dict | None) -> float | None:
    """A cell's latency, if it was measured; processor time tells nothing on several threads."""
    if cell is None or "refused" in cell:
        return None
    return statistics.median(cell[results["clock"] if cell["threads"] == 1 else "wall"])


def shares(cells: Iterable[dict]) -> float:
    """How much of the CPU that they asked for measurements had, in [0, 1]."""
    timed = [cell for cell in cells if "refused" not in cell]
    asked = sum(sum(cell["wall"]) * cell["threads"] for cell in timed)
    return sum(sum(cell["cpu"]) for cell in timed) / max(asked, 1e-9)


def table(results: dict) -> dict[tuple, dict]:
    """Cells by shape, batch, length, threads, model and engine."""
    keys = ("shape", "batch", "length", "threads", "model", "engine")
    return {tuple(cell[key] for key in keys): cell for cell in results["cells"]}


def best(results: dict) -> dict | None:
    """The sparse cell with the largest gain over fp32, batch 1 on one thread."""
    cells, gains = table(results), {}
    for key, cell in cells.items():
        shape, batch, length, threads, model, engine = key
        ours = milliseconds(results, cell)
        fp32 = milliseconds(results, cells.get((shape, batch, length, threads, FP32, OURS)))
        if (batch, threads, engine) == (1, 1, OURS) and model in results["variants"] and ours and fp32:
            gains[key] = fp32 / ours
    if not gains:
        return None
    shape, batch, length, _, model, _ = max(gains, key=gains.get)
    return {"shape": shape, "model": model, "batch": batch, "length": length}


def report(results: dict) -> str:
    """The results as Markdown."""
    cells = table(results)
    engines = ", ".join(
        f"{NAMES[name]} {(version or '(missing)').partition('-')[0]}" for name, version in results["engines"].items()
    )
    vnni = {True: "with VNNI", False: "without VNNI", None: "VNNI unknown"}[results["vnni"]]
    clock = {"wall": "wall-clock time", "cpu": "processor time on one thread, wall-clock time on more"}
    share = shares(cell for cell in results["cells"] if cell["threads"] == 1)
    heads = [
        *("model", "batch x length", "threads", "zeros", "fp32, ONNX Runtime", "int8 dense, ONNX Runtime"),
        *("int8 dense, OpenVINO", "sparse, DeepSparse", "sparse, ours", "to fp32", "to int8", "to OpenVINO"),
        "to DeepSparse",
    ]
    lines = [
        "# Sparse models with our operators, and other engines",
        "",
        f"{results['date']}, {results['cpu']} ({vnni}); {engines}. bert-base has random weights, minilm those of "
        "all-MiniLM-L6-v2, pruned by magnitude; other models are checkpoints. Made by `make bench-sparse`.",
        "",
        f"Latency of a batch in ms: {clock[results['clock']]}, median over {results['rounds']} rounds in which all "
        f"models of a shape take turns. On one thread the engines had the CPU for {share:.0%} of the time; a row "
        f"below {BUSY:.0%} is marked *: others used the CPU, too. fp32 and the dense int8 model do not depend on "
        "the zeros; DeepSparse has the same sparse model as our operators. The last columns say how many times "
        "faster ours is.",
        "",
    ]
    rows = []
    for shape, batch, length, threads in dict.fromkeys(key[:4] for key in cells):
        for variant in results["variants"]:
            entrants = [(FP32, OURS), (DENSE, OURS), (DENSE, "openvino"), (variant, "deepsparse"), (variant, OURS)]
            found = [cells.get((shape, batch, length, threads, *one)) for one in entrants]
            if found[-1] is None:
                continue  # a variant of another model
            *others, ours = times = [milliseconds(results, cell) for cell in found]
            is_busy = threads == 1 and shares(cell for cell in found if cell is not None) < BUSY
            row = [shape + " *" * is_busy, f"{batch} x {length}", f"{threads}", variant]
            row += ["not measured" if value is None else f"{value:.1f}" for value in times]
            row += [f"{other / ours:.2f}x" if other and ours else "" for other in others]
            rows.append(row)
    lines += [
        markdown((heads, rows)),
        *_refused(results),
        *_scaling(results, cells),
        *_files(results),
        *_profile(results),
    ]
    return "\n".join(lines) + "\n"


def _refused(results: dict) -> list[str]:
    refused = [cell for cell in results["cells"] if "refused" in cell]
    reasons = [f"- {NAMES[c['engine']]}, {c['model']}: {' '.join(c['refused'].split())[:200]}" for c in refused]
    return ["", "Not measured:", "", *dict.fromkeys(reasons)] if reasons else []


def _scaling(results: dict, cells: dict[tuple, dict]) -> list[str]:
    """How much faster several threads are than one."""
    rows = []
    for (shape, batch, length, threads, model, engine), cell in cells.items():
        one = cells.get((shape, batch, length, 1, model, engine))
        if threads == 1 or one is None or "refused" in cell or "refused" in one:
            continue
        ratio = statistics.median(one["wall"]) / statistics.median(cell["wall"])
        name = "ours" if model in results["variants"] and engine == OURS else NAMES[engine]
        rows.append([shape, f"{batch} x {length}", f"{model}, {name}", str(threads), f"{ratio:.2f}x"])
    heads = ["model", "batch x length", "", "threads", "faster than on one"]
    return ["", "## Threads", "", markdown((heads, rows))] if rows else []


def _files(results: dict) -> list[str]:
    rows = [
        [shape, name, f"{size / 1e6:.1f} MB"]
        for shape, sizes in results["files"].items()
        for name, size in sizes.items()
    ]
    return ["", "## Files", "", markdown((["model", "zeros", "size"], rows))]


def _profile(results: dict) -> list[str]:
    if not results["profile"]:
        return []
    case, times = results["profile"]["of"], results["profile"]["milliseconds"]
    everything = sum(times.values())
    rows = [[name, f"{time:.2f}", f"{time / everything:.0%}"] for name, time in times.items()]
    return [
        *("", "## Where the time goes", ""),
        f"The case with the largest gain over fp32, {case['shape']}, {case['model']}, batch {case['batch']}, length "
        f"{case['length']}, one thread, by the profiler of ONNX Runtime: {everything:.2f} ms.",
        "",
        markdown((["operator", "ms", "share"], rows)),
    ]
