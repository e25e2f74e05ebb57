"""Tiny pruned models in the forms that this project and other tools write, and inputs for them."""

from pathlib import Path

import numpy as np

from helpers.exports import FAMILIES, export_model, make_batch, prune_model, quantize_by_onnxruntime, quantize_model


def make_model(
    folder, family="bert", precision="int8", exporter="torchscript", share=0.9, target="onnxruntime", **keys
):
    """Export ``model.onnx`` into a folder; ``share`` of its weights is zero. Returns its file and inputs."""
    make, names, pad = FAMILIES[family]
    model = prune_model(make(), share) if share else make()
    if precision == "int8":
        quantize_model(model, names, pad, **keys)
    export_model(model.eval(), folder, names, pad, exporter=exporter, target=target)
    return folder / "model.onnx", {name: one.numpy() for name, one in make_batch(3, 20, names, pad).items()}


# For a machine without torch: the arguments of make_model, and the form in which ONNX Runtime quantizes the file.
_FILES = {
    "fp32 bert": ({"precision": "fp32", "exporter": "dynamo"}, ""),
    "fp32 distilbert": ({"precision": "fp32", "family": "distilbert"}, ""),
    "int8 bert": ({"exporter": "dynamo"}, ""),
    "int8 distilbert": ({"family": "distilbert"}, ""),
    "int8 roberta, half of the weights": ({"family": "roberta", "share": 0.5}, ""),
    "int8 bert, integers": ({"target": "deepsparse"}, ""),
    "int8 bert, dynamic": ({"precision": "fp32"}, "dynamic, asymmetric"),
    "int8 bert, QDQ": ({"precision": "fp32"}, "QDQ"),
    "int8 bert, QOperator": ({"precision": "fp32"}, "QOperator, uint8"),
}


def make_files(folder: Path) -> None:
    """Write ``NAME/model.onnx`` and its inputs, ``NAME/feed.npz``, for each name above."""
    for name, (arguments, form) in _FILES.items():
        path, feed = make_model(folder / name, **arguments)
        if form:
            quantize_by_onnxruntime(path, form)
        np.savez(folder / name / "feed.npz", **feed)
