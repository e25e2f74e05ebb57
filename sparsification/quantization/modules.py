"""Fake-quantized modules, and the functions that put them into a model and switch them.

A fake-quantized module holds the Parameters of the module that it replaces. Until ``enable_fake_quant`` switches it on,
it computes the same as that module.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn as nn
from torch import Tensor

from sparsification.quantization.attention import ATTENTION, AttentionQuantizers, attention_modules, register_attention
from sparsification.quantization.fake_quantize import FakeQuantize, make_quantizer
from sparsification.quantization.scheme import Scheme

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class FakeQuantizedLinear(nn.Linear):
    """A Linear layer with the Parameters of another and fake-quantized input, weight and output."""

    def __init__(self, linear: nn.Linear, scheme: Scheme):
        # The meta device allocates no memory and draws no random numbers for Parameters that are replaced at once.
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scheme = scheme
        self.fake_quant_enabled = False
        self.input_quantizer = make_quantizer(scheme.inputs)
        self.weight_quantizer = make_quantizer(scheme.weights, linear.out_features)
        self.output_quantizer = make_quantizer(scheme.outputs)

    def forward(self, input: Tensor) -> Tensor:
        if not self.fake_quant_enabled:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):  # 16-bit tensors would change the ranges
            output = nn.functional.linear(
                self.input_quantizer(input.float()), self.weight_quantizer(self.weight), self.bias
            )
            return self.output_quantizer(output)


class FakeQuantizedEmbedding(nn.Embedding):
    """An Embedding with the Parameter of another and one range for its table; looked-up rows are fake-quantized."""

    def __init__(self, embedding: nn.Embedding, scheme: Scheme):
        super().__init__(
            embedding.num_embeddings,
            embedding.embedding_dim,
            embedding.padding_idx,
            embedding.max_norm,
            embedding.norm_type,
            embedding.scale_grad_by_freq,
            embedding.sparse,
            device="meta",
        )
        self.weight = embedding.weight
        self.scheme = scheme
        self.fake_quant_enabled = False
        self.weight_quantizer = make_quantizer(scheme.weights)
        self.output_quantizer = make_quantizer(scheme.outputs)

    def forward(self, input: Tensor) -> Tensor:
        rows = super().forward(input)
        if not self.fake_quant_enabled:
            return rows
        if isinstance(self.weight_quantizer, FakeQuantize):
            self.weight_quantizer.observe_in_training(self.weight)
            rows = self.weight_quantizer.fake_quantize(rows)
        return self.output_quantizer(rows)


class FakeQuantizedLayerNorm(nn.LayerNorm):
    """A LayerNorm with the Parameters of another and fake-quantized output."""

    def __init__(self, norm: nn.LayerNorm, scheme: Scheme):
        super().__init__(norm.normalized_shape, norm.eps, norm.elementwise_affine, norm.bias is not None, "meta")
        self.weight, self.bias = norm.weight, norm.bias
        self.scheme = scheme
        self.fake_quant_enabled = False
        self.output_quantizer = make_quantizer(scheme.outputs)

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        return self.output_quantizer(output.float()) if self.fake_quant_enabled else output


FakeQuantizedModule = FakeQuantizedLinear | FakeQuantizedEmbedding | FakeQuantizedLayerNorm | AttentionQuantizers

_FAKE_QUANTIZED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: FakeQuantizedLinear,
    nn.Embedding: FakeQuantizedEmbedding,
    nn.LayerNorm: FakeQuantizedLayerNorm,
}


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Replace the module of this name by another, also under every other name that it has in the model."""
    old = model.get_submodule(name)
    for path in [path for path, module in model.named_modules(remove_duplicate=False) if module is old]:
        model.set_submodule(path, new)


def insert_fake_quantizers(model: PreTrainedModel, schemes: Mapping[str, Scheme]) -> dict[nn.Module, nn.Module]:
    """Replace modules by fake-quantized ones, which are disabled until ``enable_fake_quant``.

    Args:
        model: changed in place; Parameters, their names, and forward hooks of modules are kept.
        schemes: by module name; the scheme of an attention module is that of its matrix products.

    Returns:
        For each module that was replaced, its replacement.
    """
    attention = attention_modules(model)
    replaced = {}
    for name, scheme in schemes.items():
        module = model.get_submodule(name)
        if name in attention:
            module.matmul_quantizers = AttentionQuantizers(scheme)
        else:
            kind = next(kind for kind in _FAKE_QUANTIZED if isinstance(module, kind))
            swapped = _FAKE_QUANTIZED[kind](module, scheme).train(module.training)
            # The same dict: registered hooks stay, and can be removed by their handles.
            swapped._forward_hooks = module._forward_hooks
            replace_module(model, name, swapped)
            replaced[module] = swapped
    if any(name in attention for name in schemes):
        register_attention()
        for name, module in attention.items():
            if name not in schemes:
                module.matmul_quantizers = AttentionQuantizers(Scheme())
    for quantizer in quantizers(model).values():
        quantizer.to(model.device)
    return replaced


def fake_quantized_modules(model: nn.Module) -> Iterator[tuple[str, FakeQuantizedModule]]:
    """Yield name and module of all that can fake-quantize; matrix products have the name of their attention module."""
    for name, module in model.named_modules():
        if isinstance(module, FakeQuantizedModule):
            yield name.removesuffix(".matmul_quantizers"), module


def quantizers(model: nn.Module) -> dict[str, FakeQuantize]:
    """Return all fake quantizers by name, e.g. ``bert.encoder.layer.0.attention.self.query.input_quantizer``."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FakeQuantize)}


def is_replaceable(module: nn.Module) -> bool:
    """Tell whether a fake-quantized module can replace this one; a subclass with its own ``forward`` it cannot."""
    kind = next((kind for kind in _FAKE_QUANTIZED if isinstance(module, kind)), None)
    return kind is not None and type(module).forward in (kind.forward, _FAKE_QUANTIZED[kind].forward)


def uncalled_modules(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> list[str]:
    """Find the fake-quantized modules that a forward pass does not call.

    A model that reads a module's weight without calling the module bypasses its fake quantizers.

    Args:
        model: run once in evaluation mode; its modes are restored.
        inputs: by name, on the model's device.

    Returns:
        Names of the modules.
    """
    uncalled = dict.fromkeys(name for name, _ in fake_quantized_modules(model))
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda *_, name=name: uncalled.pop(name, None))
        for name in list(uncalled)
    ]
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            model.eval()(**inputs)
    finally:
        for module, training in modes:
            module.training = training
        for hook in hooks:
            hook.remove()
    return list(uncalled)


def leave_in_fp32(model: PreTrainedModel, names: Iterable[str]) -> None:
    """Remove the fake quantizers of the modules with these names, which then compute in fp32."""
    modules = dict(fake_quantized_modules(model))
    for name in names:
        modules[name].scheme = Scheme()
        for part, quantizer in list(modules[name].named_children()):
            if isinstance(quantizer, FakeQuantize):
                setattr(modules[name], part, nn.Identity())


def fake_quant_enabled(model: nn.Module) -> bool:
    """Tell whether fake quantization is enabled in any module of the model."""
    return any(module.fake_quant_enabled for _, module in fake_quantized_modules(model))


def enable_fake_quant(model: PreTrainedModel, enabled: bool) -> None:
    """Enable or disable fake quantization in all modules that have it, and the attention function with it."""
    matmuls = False
    for _, module in fake_quantized_modules(model):
        module.fake_quant_enabled = enabled
        matmuls |= isinstance(module, AttentionQuantizers)
    if not matmuls:
        return
    current = model.config._attn_implementation
    if enabled and current != ATTENTION:
        model.unquantized_attention = current
        model.set_attn_implementation(ATTENTION)
    elif not enabled and current == ATTENTION:
        model.set_attn_implementation(vars(model)["unquantized_attention"])
