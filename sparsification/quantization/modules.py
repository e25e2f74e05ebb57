"""Where in a model is fake-quantized, and how does that survive a saved directory?

The swapped modules hold the very Parameters of those that they replace, under the same names, and the ranges are no
part of ``state_dict``: so the checkpoint of a quantized model is the plain checkpoint of its fp32 weights. The ranges
go into a file beside it, from which ``load_quantization`` makes the quantized model again, bit by bit.

Attention's two matrix products are quantized by an attention function of our own, which Transformers calls while the
model is quantized. Until ``enable_fake_quant`` says so, every module is the one that it replaced.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn as nn
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sparsification.atomic_io import atomic_path
from sparsification.errors import SparsificationError
from sparsification.quantization.fake_quantize import FakeQuantize, QuantizationArgs

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "fake_quantized"  # the name of our attention function in Transformers
QUANTIZATION_FILE = "quantization.safetensors"


class QuantizationError(SparsificationError, ValueError):
    """A quantized model, or the file of its ranges, is not what it should be."""


@dataclass(frozen=True)
class Scheme:
    """The grids of one module's tensors; None: left as it is."""

    inputs: QuantizationArgs | None = None
    weights: QuantizationArgs | None = None
    outputs: QuantizationArgs | None = None


def _quantizer(qargs: QuantizationArgs | None, num_channels: int = 1) -> nn.Module:
    return nn.Identity() if qargs is None else FakeQuantize(qargs, num_channels)


class FakeQuantizedLinear(nn.Linear):
    """A Linear layer on the Parameters of another, with its input, weight and output on grids."""

    def __init__(self, linear: nn.Linear, scheme: Scheme):
        # On the meta device nothing is allocated or drawn at random for what is replaced at once.
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scheme = scheme
        self.fake_quant_enabled = False
        self.input_quantizer = _quantizer(scheme.inputs)
        self.weight_quantizer = _quantizer(scheme.weights, linear.out_features)
        self.output_quantizer = _quantizer(scheme.outputs)

    def forward(self, input: Tensor) -> Tensor:
        if not self.fake_quant_enabled:
            return super().forward(input)
        with torch.autocast(input.device.type, enabled=False):  # 16 bits would spoil the ranges
            output = nn.functional.linear(
                self.input_quantizer(input.float()), self.weight_quantizer(self.weight), self.bias
            )
            return self.output_quantizer(output)


class FakeQuantizedEmbedding(nn.Embedding):
    """An embedding on the Parameter of another, its table on one grid; rows are rounded after they are looked up."""

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
        self.weight_quantizer = _quantizer(scheme.weights)
        self.output_quantizer = _quantizer(scheme.outputs)

    def forward(self, input: Tensor) -> Tensor:
        rows = super().forward(input)
        if not self.fake_quant_enabled:
            return rows
        if isinstance(self.weight_quantizer, FakeQuantize):
            self.weight_quantizer.observe_in_training(self.weight)
            rows = self.weight_quantizer.fake_quantize(rows)
        return self.output_quantizer(rows)


class FakeQuantizedLayerNorm(nn.LayerNorm):
    """A LayerNorm on the Parameters of another, with its output on a grid."""

    def __init__(self, norm: nn.LayerNorm, scheme: Scheme):
        super().__init__(norm.normalized_shape, norm.eps, norm.elementwise_affine, norm.bias is not None, "meta")
        self.weight, self.bias = norm.weight, norm.bias
        self.scheme = scheme
        self.fake_quant_enabled = False
        self.output_quantizer = _quantizer(scheme.outputs)

    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        return self.output_quantizer(output.float()) if self.fake_quant_enabled else output


class AttentionQuantizers(nn.Module):
    """The grids of an attention module's two matrix products, which it holds as ``matmul_quantizers``."""

    def __init__(self, scheme: Scheme):
        super().__init__()
        self.scheme = scheme
        self.fake_quant_enabled = False
        # The second factor is what a weight is in a Linear layer: engines want it symmetric.
        self.query, self.key = _quantizer(scheme.inputs), _quantizer(scheme.weights)
        self.probabilities, self.value = _quantizer(scheme.inputs), _quantizer(scheme.weights)
        self.scores, self.context = _quantizer(scheme.outputs), _quantizer(scheme.outputs)


def fake_quantized_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs,  # Transformers passes every attention function what any of them may need
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention with both products' factors on grids.

    Args:
        module: the attention module; its ``matmul_quantizers`` hold the grids.
        query: (batch, heads, sequence, head size); ``key`` and ``value`` likewise, or with fewer heads, each of which
            belongs to several of the query's.
        key: see ``query``.
        value: see ``query``.
        attention_mask: added to the scores, broadcast to (batch, heads, sequence, sequence).
        scaling: of the scores; the root of 1 / head size by default.
        dropout: share of the probabilities to drop.

    Returns:
        Context (batch, sequence, heads, head size) and probabilities.
    """
    quantizers = module.matmul_quantizers
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    key, value = for_each_head(key, query), for_each_head(value, query)
    with torch.autocast(query.device.type, enabled=False):
        scores = quantizers.query(query.float()) @ quantizers.key(key.float()).transpose(2, 3)
        scores = quantizers.scores(scores) * scaling
        if attention_mask is not None:
            scores = scores + attention_mask
        probabilities = nn.functional.dropout(scores.softmax(dim=-1), dropout, module.training)
        context = quantizers.context(quantizers.probabilities(probabilities) @ quantizers.value(value.float()))
        return context.transpose(1, 2).contiguous(), probabilities


def for_each_head(factor: Tensor, query: Tensor) -> Tensor:
    """Repeat the heads of a key or value, if they are fewer than the query's."""
    count, heads = query.shape[1], factor.shape[1]
    return factor if heads == count else factor.repeat_interleave(count // heads, dim=1)


def _register_attention() -> None:
    """Tell Transformers of the attention function; imported late, so that reading a recipe takes no seconds."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import eager_mask

    AttentionInterface.register(ATTENTION, fake_quantized_attention)
    AttentionMaskInterface.register(ATTENTION, eager_mask)


_QUANTIZED = {
    nn.Linear: FakeQuantizedLinear,
    nn.Embedding: FakeQuantizedEmbedding,
    nn.LayerNorm: FakeQuantizedLayerNorm,
}
QUANTIZED_MODULES = (*_QUANTIZED.values(), AttentionQuantizers)


def attention_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The modules whose matrix products ours can compute in place of another attention function, by name."""
    # Such a function asks them whether they are causal.
    asked = {name: module for name, module in model.named_modules() if "is_causal" in vars(module)}
    replaceable = {name: module for name, module in asked.items() if _computes_plain_attention(module)}
    return replaceable if model._can_set_attn_implementation() else {}


def _computes_plain_attention(module: nn.Module) -> bool:
    """Whether a model's own attention function takes nothing that ours would ignore, as T5's takes position biases."""
    eager = vars(sys.modules[type(module).__module__]).get("eager_attention_forward")
    ours = inspect.signature(fake_quantized_attention).parameters
    return eager is not None and set(inspect.signature(eager).parameters) <= set(ours)


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module in the place of the one of this name, wherever in the model that one stands."""
    old = model.get_submodule(name)
    for path in [path for path, module in model.named_modules(remove_duplicate=False) if module is old]:
        model.set_submodule(path, new)


def insert_fake_quantizers(model: PreTrainedModel, schemes: Mapping[str, Scheme]) -> dict[nn.Module, nn.Module]:
    """Swap modules for ones that can fake-quantize, and do not yet.

    Args:
        model: keeps its Parameters and their names, and its modules their forward hooks.
        schemes: by module name; an attention module's is that of its matrix products.

    Returns:
        For each module that was replaced, the one in its place.
    """
    attention = attention_modules(model)
    replaced = {}
    for name, scheme in schemes.items():
        module = model.get_submodule(name)
        if name in attention:
            module.matmul_quantizers = AttentionQuantizers(scheme)
        else:
            kind = next(kind for kind in _QUANTIZED if isinstance(module, kind))
            swapped = _QUANTIZED[kind](module, scheme).train(module.training)
            # The same dict, so that who listens goes on, and can still remove his hook by its handle.
            swapped._forward_hooks = module._forward_hooks
            replace_module(model, name, swapped)
            replaced[module] = swapped
    if any(name in attention for name in schemes):
        _register_attention()
        for name, module in attention.items():
            if name not in schemes:
                module.matmul_quantizers = AttentionQuantizers(Scheme())
    model.to(model.device)  # the new buffers
    return replaced


def fake_quantized_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The modules that can fake-quantize, by the name of what they replaced or belong to."""
    for name, module in model.named_modules():
        if isinstance(module, QUANTIZED_MODULES):
            yield name.removesuffix(".matmul_quantizers"), module


def quantizers(model: nn.Module) -> dict[str, FakeQuantize]:
    """All fake quantizers by name, e.g. ``bert.encoder.layer.0.attention.self.query.input_quantizer``."""
    return {name: module for name, module in model.named_modules() if isinstance(module, FakeQuantize)}


def is_replaceable(module: nn.Module) -> bool:
    """Whether a quantized module computes what this one does: a subclass with a forward of its own does more."""
    kind = next((kind for kind in _QUANTIZED if isinstance(module, kind)), None)
    return kind is not None and type(module).forward in (kind.forward, _QUANTIZED[kind].forward)


def uncalled_modules(model: PreTrainedModel, inputs: Mapping[str, Tensor]) -> list[str]:
    """Names of the modules that can fake-quantize, and that a forward pass does not run.

    Of some of them it takes the weight alone, past the quantizers.

    Args:
        model: runs once, in evaluation mode, and is as it was afterwards.
        inputs: by name, on the model's device.
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
    """Take the quantizers out of modules, given by their names, which then compute as what they replaced."""
    modules = dict(fake_quantized_modules(model))
    for name in names:
        modules[name].scheme = Scheme()
        for part, quantizer in list(modules[name].named_children()):
            if isinstance(quantizer, FakeQuantize):
                setattr(modules[name], part, nn.Identity())


def fake_quant_enabled(model: nn.Module) -> bool:
    """Whether the model computes as its int8 self will."""
    return any(module.fake_quant_enabled for _, module in fake_quantized_modules(model))


def enable_fake_quant(model: PreTrainedModel, quantizing: bool) -> None:
    """Let the swapped modules quantize, or be what they replaced."""
    matmuls = False
    for _, module in fake_quantized_modules(model):
        module.fake_quant_enabled = quantizing
        matmuls |= isinstance(module, AttentionQuantizers)
    if not matmuls:
        return
    current = model.config._attn_implementation
    if quantizing and current != ATTENTION:
        model.unquantized_attention = current
        model.set_attn_implementation(ATTENTION)
    elif not quantizing and current == ATTENTION:
        model.set_attn_implementation(model.unquantized_attention)


def save_quantization(model: nn.Module, directory: str | Path) -> None:
    """Write the grids and ranges of a quantizing model beside its weights; remove what an earlier one left there.

    Args:
        model: any model.
        directory: where its weights are saved.
    """
    path = Path(directory) / QUANTIZATION_FILE
    if not fake_quant_enabled(model):
        path.unlink(missing_ok=True)
        return
    tensors, frozen = {}, True
    for name, quantizer in quantizers(model).items():
        frozen &= not quantizer.observer_enabled
        if quantizer.observed:
            tensors |= {f"{name}.low": quantizer.min_val, f"{name}.high": quantizer.max_val}
    schemes = {name: asdict(module.scheme) for name, module in fake_quantized_modules(model)}
    with atomic_path(path) as partial:
        save_file(tensors, partial, {"schemes": json.dumps(schemes), "frozen": json.dumps(frozen)})


def load_quantization(model: PreTrainedModel, directory: str | Path) -> bool:
    """Make a loaded model the quantized one that was saved: same grids, same ranges, same logits.

    Args:
        model: with the weights of ``directory``; if a recipe has made it quantizable already, it only gets the ranges.
        directory: of a saved model, quantized or not.

    Returns:
        Whether it was a quantized one.

    Raises:
        QuantizationError: the file is not one of this model, or of another recipe.
    """
    path = Path(directory) / QUANTIZATION_FILE
    if not path.is_file():
        return False
    try:
        with safe_open(path, "pt") as file:
            schemes = {name: _scheme(grids) for name, grids in json.loads(file.metadata()["schemes"]).items()}
            frozen = json.loads(file.metadata()["frozen"])
        ranges = load_file(path)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise QuantizationError(f"{path} does not hold the ranges of a quantized model: {error}") from error
    there = {name: module.scheme for name, module in fake_quantized_modules(model)}
    differing = [name for name in there.keys() | schemes.keys() if there.get(name) != schemes.get(name)]
    if there and differing:
        raise QuantizationError(
            f"{path}: the saved model is quantized otherwise than the recipe says, {min(differing)} for one; "
            "remove the file to start from the model's fp32 weights"
        )
    try:
        insert_fake_quantizers(model, {} if there else schemes)
        for name, quantizer in quantizers(model).items():
            quantizer.observer_enabled = not frozen
            if f"{name}.low" in ranges:
                quantizer.set_range(ranges[f"{name}.low"], ranges[f"{name}.high"])
    except (AttributeError, StopIteration, RuntimeError) as error:
        raise QuantizationError(f"{path} was not saved with this model: {error}") from error
    enable_fake_quant(model, True)
    return True


def _scheme(grids: Mapping[str, Mapping | None]) -> Scheme:
    return Scheme(**{name: None if qargs is None else QuantizationArgs(**qargs) for name, qargs in grids.items()})
