"""Engines that a model can be exported for, and PyTorch's exporters."""

TARGETS = {"onnxruntime": 20, "deepsparse": 18}  # engines, and the newest opset that a file for one can have

SPARSE_TARGET = "onnxruntime-sparse"

ALL_TARGETS = "all"

AUTO, DYNAMO, TORCHSCRIPT = "auto", "dynamo", "torchscript"

EXPORTERS = (AUTO, DYNAMO, TORCHSCRIPT)
