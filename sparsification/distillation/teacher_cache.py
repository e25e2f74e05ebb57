"""On-disk cache of teacher logits.

The teacher is frozen and runs in evaluation mode, so its logits for a feature are the same in every epoch. They are
written to disk the first time that they are computed, in their own precision, and read afterwards.

A row holds the logits of one feature. If the recipe ignores padding, these are the logits of its real tokens, and each
batch that has the feature takes them, however it is padded. If padding counts, as in SparseML's loss, a row is padded
to the width of its widest batch so far, and the teacher runs again for one that is wider.

The name of the folder is a hash of everything that the logits depend on: weights and quantization of the teacher, the
features, the inputs that the teacher takes, the precision; and of the kind of the rows.

The last bits of a logit depend on the padding of the batch that it was computed in, so where batches differ in width, a
run that fills the cache, one that reads it and one without it may differ in the last bits; where all have one width,
they are equal.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from sparsification.distillation.row_store import RowStore, to_positions

logger = logging.getLogger(__name__)
SAMPLE_INDEX = "feature_row"  # the column with the index of a feature in the training data
_NAMES = {"_name_or_path", "name_or_path", "transformers_version", "architectures"}


class TeacherCache:
    """Logits by feature, in files shared by the processes of a run and by later runs.

    Args:
        directory: created if missing.
        key: hash of what the logits depend on, see ``cache_key``.
        num_rows: number of features.
        width: length of the longest row, e.g. the number of tokens of the longest feature.
        by_token: whether padding is ignored, so that rows hold real tokens.
        one_width: whether all batches have one width.
    """

    def __init__(
        self, directory: str | Path, key: str, num_rows: int, width: int, by_token: bool = False, one_width: bool = True
    ):
        self.folder = Path(directory) / f"teacher-{key}"
        self._width = width
        self._by_token, self._one_width = by_token, one_width
        self._store = RowStore(self.folder, np.full(num_rows, width))
        self._is_off = False  # the disk is full, or the outputs have no shape that can be cached

    def get(self, rows: Tensor, width: int, mask: Tensor | None = None) -> dict[str, Tensor] | None:
        """Look up logits.

        Args:
            rows: (batch,) indices of the features.
            width: width of the batch, e.g. its number of tokens with padding.
            mask: (batch, positions), 0 where padded; None: no padding.

        Returns:
            Logits (batch, width) by output, 0 where padding is ignored, or None if a row is not cached.
        """
        if self._is_off:
            return None
        kept = _positions(mask, width) if self._by_token else None
        found = self._store.read(rows.tolist(), width if kept is None else kept.sum(1).tolist())
        if found is None:
            return None
        if kept is None:
            return {name: value.view(len(rows), width).to(rows.device) for name, value in found.items()}
        return {name: to_positions(value, kept).squeeze(2) for name, value in found.items()}

    def accepts(self, outputs: Mapping[str, Tensor]) -> bool:
        """Whether outputs can be written; if their shapes do not fit, one warning is logged and the cache is off.

        Args:
            outputs: by name; a scalar loss is skipped. All others must be (batch, width) with one width that fits into
                a row.
        """
        logits = _without_loss(outputs)
        widths = {value.shape[1] if value.dim() == 2 else -1 for value in logits.values()}
        if not self._is_off and (len(widths) != 1 or -1 in widths or max(widths) > self._width):
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in logits.items()) or "none"
            self._turn_off(f"its outputs must be (batch, width) with one width of at most {self._width}, got {shapes}")
        return not self._is_off

    def open(self, outputs: Mapping[str, Tensor]) -> bool:
        """Open the files, or create them; False if outputs are not accepted or the disk is full.

        Args:
            outputs: see ``accepts``; those of one batch have the names and number types of all.
        """
        if self.accepts(outputs) and not self._store.open():
            columns = {name: (value.dtype, 1) for name, value in _without_loss(outputs).items()}
            size = sum(self._store.sizes(columns).values())
            logger.info(f"The teacher's logits are cached in {self.folder}: up to {size / 1e6:.0f} MB.")
            try:
                self._store.create(columns)
                self._store.open()
            except OSError as error:
                self._turn_off(str(error))
        return not self._is_off

    def put(self, rows: Tensor, outputs: Mapping[str, Tensor], mask: Tensor | None = None) -> None:
        """Write the logits that are missing, if they are accepted.

        Args:
            rows: (batch,) indices of the features.
            outputs: see ``accepts``.
            mask: (batch, positions), 0 where padded; None: no padding.
        """
        if not self.open(outputs):
            return
        logits = _without_loss(outputs)
        width = next(iter(logits.values())).shape[1]
        kept = _positions(mask, width)
        if kept is not None and not self._by_token:
            if not self._one_width and not kept[:, 0].all():
                self._turn_off("batches are padded on the left, each to a width of its own; set ignore_padding")
                return
            kept = None
        for number, row in enumerate(rows.tolist()):
            own = {n: value[number] if kept is None else value[number][kept[number]] for n, value in logits.items()}
            length = len(next(iter(own.values())))
            if not self._store.has(row, length):
                self._store.write([row], {name: value[:, None] for name, value in own.items()}, length)

    def _turn_off(self, reason: str) -> None:
        logger.warning(f"The teacher's logits are not kept, and the teacher runs for every batch: {reason}")
        self._is_off = True


def _positions(mask: Tensor | None, width: int) -> Tensor | None:
    """A mask as bool, if rows of logits of this width have its positions; None if not, as rows of classes."""
    return mask.bool() if mask is not None and mask.dim() == 2 and mask.shape[1] == width else None


def _without_loss(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in outputs.items() if isinstance(value, Tensor) and value.dim() > 0}


def fingerprint(dataset: datasets.Dataset, columns: Sequence[str]) -> str:
    """Hash the values of some columns of a data set, in the order of its rows.

    Args:
        dataset: e.g. the features.
        columns: names of the columns to hash.
    """
    digest = hashlib.sha256()
    for table in dataset.select_columns(list(columns)).with_format("arrow").iter(batch_size=1000):
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema.remove_metadata()) as stream:
            stream.write_table(table.combine_chunks().replace_schema_metadata(None))
        digest.update(sink.getvalue())
    return digest.hexdigest()


def cache_key(teacher: nn.Module, *others: object) -> str:
    """Hash everything that a teacher's logits depend on.

    Args:
        teacher: its class, parameters and buffers are hashed, quantization ranges included.
        *others: e.g. the fingerprint of the data and the precision; hashed by their ``repr``.
    """
    digest = hashlib.sha256(repr((type(teacher).__name__, *others)).encode())
    for name, tensor in _tensors(teacher):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(_as_bytes(tensor))
    return digest.hexdigest()[:24]


def settings(config: PreTrainedConfig) -> str:
    """Dump the settings of a configuration that logits may depend on, as JSON without paths and versions."""
    values = config.to_dict() | {"attention": config._attn_implementation}
    return json.dumps({name: values[name] for name in sorted(values.keys() - _NAMES)}, sort_keys=True, default=str)


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _as_bytes(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().flatten()
    return flat.view(torch.uint8).numpy().data if flat.numel() else memoryview(b"")
