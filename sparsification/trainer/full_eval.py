"""Evaluation in 16 bits that leaves the model as it was.

Trainer's ``--bf16_full_eval`` and ``--fp16_full_eval`` cast the model itself, for good: what is measured or exported
after the evaluation has lost its last bits, and the ranges of a quantized model with them. Here the weights are put
back, and a quantized model is not cast: it computes under autocast, as it does in training with ``--bf16``, so that
what is fake-quantized stays in fp32.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn as nn
from transformers import TrainingArguments

from sparsification.quantization.modules import fake_quant_enabled


@contextlib.contextmanager
def full_eval(model: nn.Module, args: TrainingArguments) -> Iterator[None]:
    """Make an evaluation in Trainer's way, without its traces.

    Args:
        model: the bare model.
        args: whose ``fp16_full_eval`` and ``bf16_full_eval`` are obeyed; they are off within for a quantized model.
    """
    asked = {name: getattr(args, name) for name in ("fp16_full_eval", "bf16_full_eval")}
    if not any(asked.values()):
        yield
    elif fake_quant_enabled(model):
        model.to(args.device)  # Trainer leaves it to the cast
        for name in asked:
            setattr(args, name, False)
        try:
            with torch.autocast(args.device.type, torch.float16 if asked["fp16_full_eval"] else torch.bfloat16):
                yield
        finally:
            for name, value in asked.items():
                setattr(args, name, value)
    else:
        with _weights_put_back(model):
            yield


@contextlib.contextmanager
def _weights_put_back(model: nn.Module) -> Iterator[None]:
    """Undo a cast, with the weights as they were, on the device that they are on by then."""
    weights = [(parameter, parameter.data.cpu()) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer.cpu())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield
    finally:
        for parameter, data in weights:
            parameter.data = data.to(parameter.device)
        for module, name, buffer in buffers:
            setattr(module, name, buffer.to(getattr(module, name).device))
