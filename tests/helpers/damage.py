"""Load and run damaged copies of a sparse model: ``damage.py operators|provider FOLDER SEED COUNT``.

The folder has ``model.onnx`` and its inputs, ``feed.npz``. ``operators``: a file of the project's own operators is made
of it; ``provider``: it is run with the execution provider. A process of its own, because a crash ends it, and without
torch. Prints how many copies ran and how many were refused.
"""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

from sparsification.runtime import ENGINE_ERRORS
from sparsification.runtime.build import build
from sparsification.runtime.rewrite import rewrite_sparse


@np.errstate(all="ignore")
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
    path = folder / "model.onnx"
    source = onnx.load(rewrite_sparse(path).path if way == "operators" else path)
    feed = dict(np.load(folder / "feed.npz"))
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


if __name__ == "__main__":
    main()
