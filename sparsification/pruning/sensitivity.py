"""How much a model's outputs change with one of its weights.

The relative error of a layer's own outputs says little about the model: in a MiniLM, equal errors of two layers change
the model's outputs up to 90 times as much. The ratio hardly depends on the mask, so that one measurement of a layer is
enough to weigh its errors.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sparsification.pruning.layer_walk import Batch, forward

PROBED_BATCHES = 4
TINY = torch.finfo(torch.float32).tiny


class Probe:
    """Measures what weights change in the outputs of a model.

    Args:
        model: in evaluation mode, as it is to be compared with.
        batches: calibration data, of which some are used.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch]):
        self._model = model
        step = max(1, len(batches) // PROBED_BATCHES)
        self._batches = batches[step // 2 :: step][:PROBED_BATCHES]
        self._outputs = self._run(model)
        self._powers = [(output - output.mean(dim=0)).square().sum() for output in self._outputs]

    def change(self, parameter: nn.Parameter, value: Tensor) -> float:
        """Return the squared change of the outputs in units of their variance, the mean over the output tensors.

        Args:
            parameter: of the model; is as before afterwards.
            value: that it has instead.
        """
        own = parameter.data
        parameter.data = value.to(own.dtype)
        try:
            return self.change_of(self._model)
        finally:
            parameter.data = own

    def change_of(self, model: nn.Module) -> float:
        """Return the change of the outputs with another model in evaluation mode, in the unit of ``change``."""
        changes = [
            float((output - before).square().sum() / power.clamp(min=TINY))
            for output, before, power in zip(self._run(model), self._outputs, self._powers, strict=True)
        ]
        return sum(changes) / len(changes)

    def _run(self, model: nn.Module) -> list[Tensor]:
        """The output tensors of all batches, each (rows, width) without padding."""
        parts = [[_rows(value, batch) for value in _tensors(forward(model, batch))] for batch in self._batches]
        return [torch.cat(values) for values in zip(*parts, strict=True)]


def _tensors(outputs: object) -> list[Tensor]:
    """The numbers that a model gives for each example. Of a bare encoder not the pooled first token."""
    if isinstance(outputs, Mapping):
        outputs = [value for name, value in outputs.items() if name != "pooler_output"]
    values = outputs if isinstance(outputs, list | tuple) else [outputs]
    return [value for value in values if isinstance(value, Tensor) and value.dim() > 0]


def _rows(value: Tensor, batch: Batch) -> Tensor:
    mask = batch.get("attention_mask")
    rows = value[mask.bool()] if mask is not None and value.shape[:2] == mask.shape else value
    return (rows.flatten(end_dim=-2) if rows.dim() > 1 else rows[:, None]).float()
