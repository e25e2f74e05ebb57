"""Compare the provider with the CPU provider: ``compare_models.py FOLDER OUTPUTS``, for a machine without torch.

``exported_models.make_files`` has written FOLDER. The provider's outputs are stored in OUTPUTS, an npz file. The first
word that is printed is the instruction set that the provider has selected.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime
from sessions import assert_close, run_cpu, run_provider

import onnxruntime_ep_sparse as sparse
from onnxruntime_ep_sparse.explain import layer_reports


def main() -> None:
    sparse.register()
    (device,) = [one for one in onnxruntime.get_ep_devices() if one.ep_name == sparse.get_ep_name()]
    print(device.ep_metadata["instruction_set"], sparse.get_library_path())
    outputs = {}
    for path in sorted(Path(sys.argv[1]).glob("*/model.onnx")):
        name, feed = path.parent.name, dict(np.load(path.parent / "feed.npz"))
        expected, differences = run_cpu(path, feed), []
        for fuse in (True, False):
            actual = run_provider(path, feed, always=True, fuse=fuse)
            differences.append(assert_close(actual, expected, name.partition(" ")[0]))
            outputs |= {f"{name}, fuse={fuse}, {index}": one for index, one in enumerate(actual)}
        taken = sum(bool(layer.taken) for layer in layer_reports(path, always=True))
        print(f"{name}: {taken} layers, differences {' and '.join(f'{one:.1e}' for one in differences)}")
        assert taken >= 12
    np.savez(sys.argv[2], **outputs)


if __name__ == "__main__":
    main()
