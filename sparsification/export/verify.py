"""Comparison of an ONNX file in ONNX Runtime with the PyTorch model, on the same features.

The outputs of a model that is not quantized must be equal up to rounding. Those of an int8 graph are compared by their
distribution: rounding makes a deep model chaotic, and single values differ between two correct graphs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from sparsification import runtime
from sparsification.cpu import has_vnni
from sparsification.errors import SparsificationError
from sparsification.quantization.modules import quantizers

# How far the outputs of an int8 graph may be from the fake-quantized model's, measured on MiniLM-L6 (6 models, 2
# targets): up to 0.1 when correct, and PyTorch's own after a change of 1e-5 up to 0.08.
MEAN_LIMIT = 0.25


class ExportError(SparsificationError, RuntimeError):
    """The export failed, or the exported model is not the PyTorch model. Nothing is left under the final name."""


class OnnxModel:
    """An ONNX model in ONNX Runtime on the CPU. Takes tensors by name and returns arrays.

    Args:
        path: the ONNX file; it may contain this project's sparse operators.
        output_names: outputs to compute, in this order; all in the graph's order by default.
        threads: number of threads for each run; ONNX Runtime's own choice by default.
        sparse_provider: use the execution provider of onnxruntime-ep-sparse, if it is installed.

    Raises:
        ExportError: ONNX Runtime cannot load the file.
        BuildError: the file contains sparse operators, and there is no compiler, or it failed.
    """

    def __init__(
        self,
        path: str | Path,
        output_names: Sequence[str] | None = None,
        threads: int | None = None,
        sparse_provider: bool = False,
    ) -> None:
        self.path = path
        try:
            self._session = runtime.load_session(path, threads, sparse_provider)
        except runtime.ENGINE_ERRORS as error:
            raise ExportError(f"ONNX Runtime cannot load {path}: {error}") from error
        self.input_names = [node.name for node in self._session.get_inputs()]
        self.output_names = list(output_names or [node.name for node in self._session.get_outputs()])

    def __call__(self, batch: Mapping[str, Tensor]) -> tuple[np.ndarray, ...]:
        """Run one batch.

        Args:
            batch: tensors by name, on any device; names that are no input of the graph are ignored.

        Returns:
            The outputs, each (batch, sequence, ...) for a model of ``export_onnx``.

        Raises:
            ExportError: ONNX Runtime cannot run the batch, or it lacks an input of the graph.
        """
        feed = {name: tensor.numpy() for name, tensor in select(batch, self.input_names).items()}
        try:
            return tuple(self._session.run(self.output_names, feed))
        except runtime.ENGINE_ERRORS as error:
            raise ExportError(f"ONNX Runtime cannot run {self.path}: {error}") from error


class NamedOutputs(nn.Module):
    """Wrapper with the signature that the exporter needs: positional tensors in, a tuple of tensors out."""

    def __init__(self, model: PreTrainedModel, input_names: Sequence[str], output_names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.input_names = tuple(input_names)
        self.output_names = tuple(output_names)
        self.eval()  # The exporter gives each module the wrapper's mode back, and a new module is in training mode.

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        outputs = self.model(**dict(zip(self.input_names, inputs, strict=True)), return_dict=True)
        missing = [name for name in self.output_names if name not in outputs]
        if missing:
            raise ExportError(f"{type(self.model).__name__} has no output {missing[0]!r}; it has {list(outputs)}")
        return tuple(outputs[name] for name in self.output_names)


def select(batch: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of these names, on the CPU; ExportError if one is missing."""
    missing = [name for name in names if name not in batch]
    if missing:
        raise ExportError(f"the features lack the model's input {missing[0]!r}; they have {sorted(batch)}")
    return {name: torch.as_tensor(batch[name]).detach().cpu() for name in names}


def compare(
    path: Path,
    model: PreTrainedModel,
    batches: Iterable[Mapping[str, Tensor]],
    input_names: Sequence[str],
    output_names: Sequence[str],
    tolerance: float,
    mean_limit: float,
) -> tuple[float, float, int]:
    """Largest and mean difference between ONNX Runtime and PyTorch over the batches, and the number of rows."""
    reference = NamedOutputs(model, input_names, output_names)
    largest, num_features = 0.0, 0
    sums = {name: np.zeros(4) for name in output_names}
    exported = OnnxModel(path, output_names)
    for inputs in (select(batch, input_names) for batch in batches):
        actual = exported(inputs)
        with torch.no_grad():
            expected = reference(*inputs.values())
        num_features += len(expected[0])
        for name, ours, theirs in zip(output_names, expected, map(torch.from_numpy, actual), strict=True):
            mask = inputs.get("attention_mask")
            largest = max(largest, largest_difference(name, ours, theirs, mask, tolerance))
            sums[name] += difference_sums(at_tokens(ours, mask), at_tokens(theirs, mask))
    means = {name: mean_difference(*values) for name, values in sums.items()}
    worst = max(means, key=lambda name: means[name])
    if not means[worst] <= mean_limit:
        raise ExportError(
            f"ONNX Runtime's {worst} differ from the fake-quantized model's by {means[worst]:.2f} of their standard "
            f"deviation in the mean; allowed is {mean_limit:.2f}. The ONNX model was not kept."
        )
    return largest, means[worst], num_features


def cpu_note(model: PreTrainedModel) -> str:
    """Warning for a quantized model whose 8-bit products overflow on this CPU; else an empty string."""
    right_factors = ("weight_quantizer", "matmul_quantizers.key", "matmul_quantizers.value")
    qargs = [quantizer.qargs for name, quantizer in quantizers(model).items() if name.endswith(right_factors)]
    if has_vnni() is not False or all(qargs.bits < 8 for qargs in qargs):
        return ""
    return (
        "This CPU has no VNNI: sums of 8-bit products overflow on it in ONNX Runtime, outputs can be wrong. Run the "
        "model on another, or quantize it with reduce_range: true in the recipe's QuantizationModifier."
    )


def at_tokens(output: Tensor, mask: Tensor | None) -> Tensor:
    """The positions of an output where the mask is not 0."""
    return output[mask != 0] if mask is not None and mask.shape == output.shape[:2] else output


def difference_sums(expected: Tensor, actual: Tensor) -> np.ndarray:
    """Sums over all elements: their number, the absolute differences, the expected values and their squares."""
    expected, actual = expected.double(), actual.double()
    return np.array(
        [expected.numel(), (actual - expected).abs().sum(), expected.sum(), expected.square().sum()], dtype=float
    )


def mean_difference(count: float, differences: float, total: float, squares: float) -> float:
    """The mean difference in standard deviations, from ``difference_sums``."""
    if differences == 0:
        return 0.0
    deviation = math.sqrt(max(squares / count - (total / count) ** 2, 0.0))
    return differences / count / deviation if deviation else math.inf


def largest_difference(name: str, expected: Tensor, actual: Tensor, mask: Tensor | None, tolerance: float) -> float:
    """Max |actual - expected| where the mask is not 0; ExportError if it is above the tolerance."""
    shape = tuple(expected.shape)
    if tuple(actual.shape) != shape:
        raise ExportError(f"ONNX Runtime gives {name} the shape {tuple(actual.shape)}, PyTorch {shape}")
    expected, actual = at_tokens(expected, mask), at_tokens(actual, mask)
    if expected.numel() == 0:
        return 0.0
    difference = (actual - expected).abs().max().item()
    limit = tolerance * max(1.0, expected.abs().max().item())
    # Written so that NaN, which compares False with everything, is an error.
    if not difference <= limit:
        raise ExportError(
            f"ONNX Runtime's {name} differ from PyTorch's by up to {difference:.2e} on features of shape {shape}; "
            f"allowed is {limit:.2e}. The ONNX model was not kept."
        )
    return difference
