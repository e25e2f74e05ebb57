"""On-disk cache of the hidden states that layer distillation takes from a teacher.

They lie beside the teacher's logits, under the same key: each layer's output for each token of a feature, without
padding, in 16 bits. A row is written once. A run uses what is on the disk from the first epoch on, so one that fills
the cache and one that only reads it have the same losses, up to the last bits of the logits.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import datasets
import numpy as np
import torch
from torch import Tensor, nn

from sparsification.atomic_io import free_bytes
from sparsification.distillation.row_store import RowStore, to_positions

logger = logging.getLogger(__name__)
_SHARE = 0.5  # of the free disk space that the hidden states may take


class HiddenStateCache:
    """Outputs of layers by feature.

    Args:
        folder: folder of the files, created if missing.
        num_tokens: (features,) tokens of each feature without padding, see ``count_tokens``.
    """

    def __init__(self, folder: Path, num_tokens: np.ndarray):
        self._num_tokens = num_tokens
        self._store = RowStore(folder, num_tokens)
        self._is_off = False  # the batches are not the features that were counted

    def open(self, example: Mapping[str, Tensor]) -> bool:
        """Open the files, or create them if they take at most half of the free disk space.

        Args:
            example: outputs of the layers for one feature, (1, tokens, width), by name.

        Returns:
            Whether there are files; if not, one warning is logged.
        """
        if self._store.open():
            return True
        for name, value in example.items():
            if value.dim() != 3 or not value.is_floating_point():
                return self.refuse(f"{name} must be (batch, tokens, width), got {tuple(value.shape)}")
        columns = {name: (_kind(value), value.shape[2]) for name, value in example.items()}
        sizes, free = self._store.sizes(columns), free_bytes(self._store.folder)
        needed = sum(size for path, size in sizes.items() if not path.exists())
        text = (
            f"{len(columns)} layers of {self._num_tokens.sum():,} tokens in {len(self._num_tokens):,} features take "
            f"{sum(sizes.values()) / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free in {self._store.folder}"
        )
        if needed > _SHARE * free:
            return self.refuse(f"{text}, of which they may take {_SHARE:.0%}")
        logger.info(f"The teacher's hidden states are cached: {text}.")
        try:
            self._store.create(columns)
        except OSError as error:
            return self.refuse(str(error))
        return self._store.open()

    def get(self, rows: Tensor, mask: Tensor | None) -> dict[str, Tensor] | None:
        """Look up hidden states.

        Args:
            rows: (batch,) indices of the features.
            mask: (batch, positions), 0 where padded; None: nothing is found.

        Returns:
            Outputs (batch, positions, width) by name, 0 where padded, or None if a row is not cached.
        """
        if self._is_off or mask is None or not self._fits(rows, mask):
            return None
        found = self._store.read(rows.tolist())
        return None if found is None else {name: to_positions(tokens, mask) for name, tokens in found.items()}

    def put(self, rows: Tensor, mask: Tensor | None, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Write the hidden states that are missing, and read all of them.

        Args:
            rows: (batch,) indices of the features.
            mask: (batch, positions), 0 where padded.
            outputs: (batch, positions, width) by name.

        Returns:
            What ``get`` returns; empty if the batch cannot be cached, of which one warning is logged.
        """
        if self._is_off:
            return {}
        if mask is None or not self._fits(rows, mask) or any(x.shape[:2] != mask.shape for x in outputs.values()):
            self._is_off = True
            self.refuse(
                "each batch must have an attention_mask with as many tokens as the data have, and the layers its shape"
            )
            return {}
        for number, row in enumerate(rows.tolist()):
            if not self._store.has(row):
                kept = mask[number].bool()
                self._store.write([row], {name: x[number][kept].to(_kind(x)) for name, x in outputs.items()})
        return self.get(rows, mask) or {}

    def _fits(self, rows: Tensor, mask: Tensor) -> bool:
        return mask.sum(1).tolist() == self._num_tokens[rows.tolist()].tolist()

    @staticmethod
    def refuse(reason: str) -> bool:
        """Log one warning that nothing is kept, and return False."""
        logger.warning(f"The teacher's hidden states are not kept, and the teacher runs for every batch: {reason}")
        return False


def _kind(value: Tensor) -> torch.dtype:
    """The number type on the disk: bfloat16 for 32 bits, because it has their range."""
    return value.dtype if value.dtype.itemsize == 2 else torch.bfloat16


def count_tokens(dataset: datasets.Dataset) -> np.ndarray:
    """Count the tokens of each feature without padding: the ones of ``attention_mask``, or else all ``input_ids``."""
    column = "attention_mask" if "attention_mask" in dataset.column_names else "input_ids"
    batches = dataset.select_columns([column]).with_format("numpy").iter(batch_size=1000)
    rows = (row for batch in batches for row in batch[column])
    return np.array([int(row.sum()) if column == "attention_mask" else len(row) for row in rows])


@contextlib.contextmanager
def recorded_outputs(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Yield a dictionary that receives the outputs of layers, by name, in each forward pass within the context."""
    outputs: dict[str, Tensor] = {}
    hooks = []
    for name, layer in layers.items():

        def keep(module, args, output, name=name):
            outputs[name] = output if isinstance(output, Tensor) else output[0]

        hooks.append(layer.register_forward_hook(keep))
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()
