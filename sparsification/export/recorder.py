"""Module-by-module comparison of an int8 graph with the fake-quantized model.

Rounding makes a deep model chaotic: a difference in the last bit becomes one quantization step, then many. Two correct
int8 models differ more at their outputs than a correct one and one with a wrong scale. So the inputs and outputs of the
quantized modules are recorded in the graph while it is checked, and each module is compared by itself.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn as nn
from torch import Tensor
from transformers import PreTrainedModel

from sparsification.quantization.attention import AttentionQuantizers, fake_quantized_attention
from sparsification.quantization.modules import quantizers


class ActivationRecorder:
    """Adds the inputs and outputs of modules to the outputs of a model.

    Args:
        model: its forward returns a dictionary from now on, which includes ``tensors``.
        modules: modules by the name to record them under. Of one that runs several times, the first run is recorded.
    """

    def __init__(self, model: nn.Module, modules: Mapping[str, nn.Module]):
        self.tensors: dict[str, Tensor] = {}
        self._originals: dict[str, Tensor] = {}
        # By module: its arguments, tensors by their name in ``tensors``; and the name of its output.
        self.calls: dict[str, tuple[list[object], str]] = {}
        model.register_forward_pre_hook(self._forget)
        for name, module in modules.items():
            module.register_forward_hook(partial(self._record, name))
        model.register_forward_hook(lambda model, inputs, outputs: {**outputs, **self.tensors})

    def _forget(self, *_) -> None:
        self.tensors.clear()
        self._originals.clear()
        self.calls.clear()

    def _record(self, name: str, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        if name not in self.calls:
            arguments = [
                self._keep(f"{name}:{index}", value) if isinstance(value, Tensor) else value
                for index, value in enumerate(inputs)
            ]
            self.calls[name] = arguments, self._keep(f"{name}:output", output)

    def _keep(self, name: str, value: Tensor) -> str:
        known = next((known for known, tensor in self._originals.items() if tensor is value), name)
        if known not in self.tensors:
            self._originals[known] = value
            # A model may change a tensor in place later, as DeBERTa v1 does: the recorded one must not change with it.
            self.tensors[known] = value.clone()
        return known


def recorded_modules(model: PreTrainedModel, names: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """The modules that ``to_int8`` has put in place of fake-quantized ones, by the names of these."""
    modules = {name: model.get_submodule(name) for name in names}
    return {name: getattr(module, "matmul_quantizers", module) for name, module in modules.items()}


def module_differences(
    model: PreTrainedModel, calls: Mapping[str, tuple[list[object], str]], tensors: Mapping[str, Tensor]
) -> dict[str, float]:
    """Difference between each module of the int8 model and of the fake-quantized model, on the same inputs.

    Args:
        model: the fake-quantized model.
        calls: the calls of an ``ActivationRecorder`` of the int8 model.
        tensors: the recorded tensors of the int8 model's run, by the recorder's names.

    Returns:
        Mean absolute difference of the output, relative to its mean absolute value, by module.
    """
    # Ties are frequent: inputs may be quantized already, as the rows of an embedding are.
    activations = [quantizer for name, quantizer in quantizers(model).items() if not name.endswith("weight_quantizer")]
    for quantizer in activations:
        quantizer.divides = True
    differences = {}
    for name, (arguments, output) in calls.items():
        module = model.get_submodule(name)
        inputs = [tensors[value] if isinstance(value, str) else value for value in arguments]
        if isinstance(getattr(module, "matmul_quantizers", None), AttentionQuantizers):
            attention: Callable[..., tuple[Tensor, Tensor]] = fake_quantized_attention  # of recorded arguments
            expected, _ = attention(module, *inputs)
        else:
            expected = module(*inputs)
        smallest = torch.finfo(torch.float32).tiny  # a layer's output may be all zeros
        scale = expected.abs().mean().clamp(min=smallest)
        differences[name] = float((tensors[output] - expected).abs().mean() / scale)
    for quantizer in activations:
        quantizer.divides = False
    return differences
