"""Load and run damaged copies of a sparse model: ``damage.py operators|provider FOLDER SEED COUNT``.

``operators``: a file of the project's own operators; ``provider``: a standard one, with the execution provider. A
process of its own, because a crash ends it. Prints how many copies ran and how many were refused.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "provider")]  # this file is run as a script

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime  # noqa: E402
from onnx import numpy_helper  # noqa: E402

from helpers.exports import (  # noqa: E402
    export_model,
    make_batch,
    make_bert,
    prune_model,
    quantize_by_onnxruntime,
    quantize_model,
)
from sparsification.runtime import ENGINE_ERRORS  # noqa: E402
from sparsification.runtime.build import build  # noqa: E402
from sparsification.runtime.rewrite import rewrite_sparse  # noqa: E402


def damage(model: onnx.ModelProto, generator: np.random.Generator) -> None:
    """Change one to three constants or attributes, in place."""
    for _ in range(generator.integers(1, 4)):
        if generator.random() < 0.2:
            node = model.graph.node[generator.integers(len(model.graph.node))]
            for attribute in node.attribute:
                if attribute.type == onnx.AttributeProto.INT:
                    attribute.i = int(generator.integers(-3, 5))
                elif attribute.type == onnx.AttributeProto.INTS:
                    attribute.ints[:] = generator.permutation(np.array(attribute.ints)).tolist()
                elif attribute.type == onnx.AttributeProto.FLOAT:
                    attribute.f = float(generator.choice([0.0, -1.0, np.inf, np.nan, 1e-45]))
            continue
        tensor = model.graph.initializer[generator.integers(len(model.graph.initializer))]
        array = numpy_helper.to_array(tensor).copy()
        kind = generator.integers(5)
        if kind == 0 and array.size:
            flat = array.reshape(-1)
            values = [0, -1, 127, 2**31] if array.dtype == np.int64 else [0, -1, np.inf, np.nan, 1e-45, 3e38]
            with np.errstate(all="ignore"):
                flat[generator.integers(flat.size)] = np.array(generator.choice(values)).astype(array.dtype)
        elif kind == 1:
            array = np.frombuffer(generator.bytes(array.nbytes), array.dtype).reshape(array.shape)
        elif kind == 2:
            array = array.reshape(-1)[: generator.integers(array.size + 1)]
        elif kind == 3 and array.ndim == 2:
            array = array.T
        else:
            array = array.astype(generator.choice(["float32", "int8", "uint8", "int64"]))
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))


def session_options(way: str) -> onnxruntime.SessionOptions:
    """Options of a session that runs the sparse layers, quietly."""
    if way == "operators":
        options = onnxruntime.SessionOptions()
        options.register_custom_ops_library(str(build()))
    else:
        import onnxruntime_ep_sparse

        options = onnxruntime_ep_sparse.session_options(always=True)
    options.log_severity_level = 4
    return options


def main() -> None:
    way, folder, seed, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    model = prune_model(make_bert(1))
    # ONNX Runtime itself crashes on damaged operators of the format QOperator.
    form = {2: "dynamic, asymmetric", 3: "QDQ"}.get(seed) if way == "provider" else None
    export_model(quantize_model(model) if seed % 2 == 0 and not form else model.eval(), folder)
    path = folder / "model.onnx"
    if form:
        quantize_by_onnxruntime(path, form)
    source = onnx.load(rewrite_sparse(path).path if way == "operators" else path)
    feed = {name: one.numpy() for name, one in make_batch(2, 9).items()}
    onnxruntime.set_default_logger_severity(4)
    generator, ran, refused = np.random.default_rng(seed), 0, 0
    for _ in range(count):
        damaged = onnx.ModelProto()
        damaged.CopyFrom(source)
        damage(damaged, generator)
        try:
            onnxruntime.InferenceSession(damaged.SerializeToString(), session_options(way)).run(None, feed)
            ran += 1
        except ENGINE_ERRORS:
            refused += 1
    print(ran, refused)


def assert_survives(way: str, folder: Path, seed: int) -> None:
    """A process that loads and runs 60 damaged copies ends by itself, having run some and refused some."""
    command = [sys.executable, __file__, way, str(folder), str(seed), "60"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert min(int(number) for number in result.stdout.split()) > 5, result.stdout


if __name__ == "__main__":
    main()
