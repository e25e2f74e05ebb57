"""Tiny models of four families, quantized by a recipe, pruned and exported."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import numpy_helper
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.calibrate import CalibrationDataReader
from torch import nn
from transformers import (
    AlbertConfig,
    AlbertForQuestionAnswering,
    BertConfig,
    BertForQuestionAnswering,
    DistilBertConfig,
    DistilBertForQuestionAnswering,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from sparsification.export.onnx import export_onnx
from sparsification.export.targets import TORCHSCRIPT
from sparsification.manager import ScheduledModifierManager
from sparsification.modifiers import TrainingStep
from sparsification.runtime.build import BuildError, find_compiler

OUTPUTS = ["start_logits", "end_logits"]
INPUTS = ["input_ids", "attention_mask", "token_type_ids"]
SIZE = {
    "vocab_size": 31,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    # With the usual 0.02 all logits are near zero and most errors too small to see.
    "initializer_range": 0.2,
}
TENSOR = {"num_bits": 8, "symmetric": True}
ACTIVATION = {"num_bits": 8, "symmetric": False}
# What the recipe says.
CASES = {
    "per tensor": {},
    "per channel": {"scheme": {"input_activations": ACTIVATION, "weights": TENSOR | {"strategy": "channel"}}},
    "reduce_range": {"reduce_range": True},
    "reduce_range, per channel": {
        "reduce_range": True,
        "scheme": {"input_activations": ACTIVATION, "weights": TENSOR | {"strategy": "channel"}},
    },
    "4-bit weights": {"weight_bits": 4},
    "4-bit weights, per channel": {
        "scheme": {"input_activations": ACTIVATION, "weights": {"num_bits": 4, "strategy": "channel"}}
    },
    "outputs": {"quantize_outputs": True},
    "symmetric activations": {"tensorrt": True},
    "weights only": {"scheme": {"weights": TENSOR}},
    "weights only, per channel": {"scheme": {"weights": TENSOR | {"strategy": "channel"}}},
    "activations only": {"scheme": {"input_activations": ACTIVATION}},
    "asymmetric weights": {"scheme": {"input_activations": ACTIVATION, "weights": {"symmetric": False}}},
    "asymmetric 3-bit weights": {
        "scheme": {"input_activations": ACTIVATION, "weights": {"symmetric": False, "num_bits": 3}}
    },
    "no attention": {"exclude_module_types": ["QATMatMul"], "quantize_embeddings": False},
    "attention alone": {"exclude_module_types": ["Linear", "Embedding"]},
}


def make_bert(layers: int = 2) -> BertForQuestionAnswering:
    torch.manual_seed(0)
    return BertForQuestionAnswering(BertConfig(**SIZE, num_hidden_layers=layers))


def make_distilbert() -> DistilBertForQuestionAnswering:
    torch.manual_seed(0)
    return DistilBertForQuestionAnswering(DistilBertConfig(**SIZE | {"hidden_dim": 64}, num_hidden_layers=2))


def make_roberta() -> RobertaForQuestionAnswering:
    torch.manual_seed(0)
    size = SIZE | {"max_position_embeddings": 66, "type_vocab_size": 1, "pad_token_id": 1}
    return RobertaForQuestionAnswering(RobertaConfig(**size, num_hidden_layers=2))


def make_albert() -> AlbertForQuestionAnswering:
    torch.manual_seed(0)
    return AlbertForQuestionAnswering(AlbertConfig(**SIZE | {"embedding_size": 16}, num_hidden_layers=3))


FAMILIES = {
    "bert": (make_bert, INPUTS, 0),
    "distilbert": (make_distilbert, INPUTS[:2], 0),
    "roberta": (make_roberta, INPUTS[:2], 1),
    "albert": (make_albert, INPUTS, 0),
}


def make_batch(rows: int, length: int, names=INPUTS, pad: int = 0, seed: int = 0) -> dict[str, torch.Tensor]:
    """Features as a tokenizer pads them: the last row full, the others shorter."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 31, (rows, length), generator=generator)
    lengths = torch.arange(length - rows + 1, length + 1).clamp(min=1)
    mask = (torch.arange(length) < lengths[:, None]).long()
    tensors = {
        "input_ids": torch.where(mask == 1, ids, pad),
        "attention_mask": mask,
        "token_type_ids": mask * (torch.arange(length) >= length // 3),
    }
    return {name: tensors[name] for name in names}


def quantize_model(model, names=INPUTS, pad: int = 0, finalize: bool = True, batches: int = 3, **keys):
    """Quantize a model by a recipe, and let its quantizers see a few batches."""
    recipe = {"start_epoch": 0, "disable_quantization_observer_epoch": 1} | keys
    text = yaml.safe_dump({"modifiers": [recipe]}).replace("- ", "- !QuantizationModifier\n  ", 1)
    manager = ScheduledModifierManager.from_yaml(text)
    manager.initialize(model)
    manager.on_train_begin(TrainingStep(0, 10))
    with torch.no_grad():
        for seed in range(batches):
            model.train()(**make_batch(4, 24, names, pad, seed=100 + seed))
    if finalize:
        manager.finalize()
    return model.eval()


def export_model(model, output_dir, names=INPUTS, pad: int = 0, exporter: str = TORCHSCRIPT, **options):
    """Export by the faster exporter, for tests of other things; "auto" is the default exporter."""
    batches = options.pop("batches", [make_batch(4, 24, names, pad)])
    given = {"input_names": names, "output_names": OUTPUTS, "check_batches": batches, "exporter": exporter}
    return export_onnx(model, output_dir, **given, **options)


def read_initializers(path) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


# Arguments of onnxruntime.quantization, which optimum-onnx calls, too; its default of each format is int8 for both.
_DYNAMIC: dict[str, Any] = {"quantize": quantize_dynamic}
_STATIC: dict[str, Any] = {"quantize": quantize_static}
_OPERATORS = _STATIC | {"quant_format": QuantFormat.QOperator}
ONNXRUNTIME_FORMS = {
    "dynamic": _DYNAMIC,
    "dynamic, uint8": _DYNAMIC | {"weight_type": QuantType.QUInt8},
    "dynamic, per channel": _DYNAMIC | {"per_channel": True},
    "dynamic, asymmetric": _DYNAMIC | {"extra_options": {"WeightSymmetric": False}, "per_channel": True},
    "QDQ": _STATIC,
    "QDQ, uint8": _STATIC | {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
    "QDQ, per channel": _STATIC | {"per_channel": True},
    "QOperator": _OPERATORS,
    "QOperator, uint8": _OPERATORS | {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
}


class _Batches(CalibrationDataReader):
    def __init__(self) -> None:
        self.left = [{name: one.numpy() for name, one in make_batch(4, 24, seed=100 + seed).items()} for seed in (0, 1)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


def quantize_by_onnxruntime(path: Path, form: str) -> None:
    """Quantize an exported fp32 model in place, in one of ``ONNXRUNTIME_FORMS``."""
    options = dict(ONNXRUNTIME_FORMS[form])
    quantize = options.pop("quantize")
    quantize(path, path, *([] if quantize is quantize_dynamic else [_Batches()]), **options)


NO_COMPILER = "the sparse runtime needs a C++ compiler once, and there is none: install g++ or clang, or set CXX"
try:
    find_compiler()
    HAS_COMPILER = True
except BuildError:
    HAS_COMPILER = False
needs_compiler = pytest.mark.skipif(not HAS_COMPILER, reason=NO_COMPILER)


def prune_model(model, share: float = 0.9, block: int = 4):
    generator = torch.Generator().manual_seed(0)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "qa_outputs" not in name:
            weight = module.weight.data
            keep = torch.rand(weight.shape[0], weight.shape[1] // block, generator=generator) >= share
            weight *= keep.repeat_interleave(block, dim=1)
    return model
