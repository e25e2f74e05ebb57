"""Engines that a model can be exported for."""

TARGETS = {"onnxruntime": 20, "deepsparse": 18}  # engines, and the newest opset that one can be given


SPARSE_TARGET = "onnxruntime-sparse"


ALL_TARGETS = "all"
