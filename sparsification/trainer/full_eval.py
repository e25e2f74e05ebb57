"""Evaluation in 16 bits that restores the model's fp32 weights afterwards.

Trainer's ``--bf16_full_eval`` and ``--fp16_full_eval`` cast the model permanently: weights and quantization ranges lose
precision before they are measured or exported. Here the weights are restored after the evaluation. A quantized model is
not cast; it runs under autocast, as in training with ``--bf16``, so that fake-quantized modules compute in fp32.
"""

import contextlib
from collections.abc import Iterator

import torch
import torch.nn as nn
from transformers import TrainingArguments

from sparsification.quantization.modules import fake_quant_enabled


@contextlib.contextmanager
def full_eval(model: nn.Module, args: TrainingArguments) -> Iterator[None]:
    """Evaluate with ``--fp16_full_eval`` or ``--bf16_full_eval`` inside this context, and restore the model after it.

    Args:
        model: the model, not wrapped.
        args: Trainer's arguments; the two flags are off inside the context for a quantized model.
    """
    given = {name: getattr(args, name) for name in ("fp16_full_eval", "bf16_full_eval")}
    if not any(given.values()):
        yield
    elif fake_quant_enabled(model):
        model.to(args.device)  # Trainer moves the model together with the cast, which is left out here
        for name in given:
            setattr(args, name, False)
        try:
            with torch.autocast(args.device.type, torch.float16 if given["fp16_full_eval"] else torch.bfloat16):
                yield
        finally:
            for name, value in given.items():
                setattr(args, name, value)
    else:
        with _weights_put_back(model):
            yield


@contextlib.contextmanager
def _weights_put_back(model: nn.Module) -> Iterator[None]:
    """Restore all weights and buffers after a cast, on the device where they are then."""
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
