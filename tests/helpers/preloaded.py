"""What the server of helpers.processes imports before it forks: what a run, its export and its report use."""

import gc

import matplotlib.figure
import onnxruntime
from transformers.models.bert import modeling_bert, tokenization_bert

from sparsification.export import onnx
from sparsification.report import render
from sparsification.tasks.question_answering import pipeline

__all__ = ["matplotlib", "modeling_bert", "onnx", "onnxruntime", "pipeline", "render", "tokenization_bert"]

gc.collect()
gc.freeze()
