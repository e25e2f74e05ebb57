"""On-disk cache of teacher logits.

The teacher is frozen and runs in evaluation mode, so its logits for a feature are the same in every epoch. They are
written to disk the first time that they are computed, in their own precision, and read afterwards. A row holds the
logits of one feature, padded to the width of its first batch; the teacher runs again for a later batch that is wider.

The name of the folder is a hash of everything that the logits depend on: weights and quantization of the teacher, the
features, the inputs that the teacher takes, the precision. Each row has a checksum; a row that was not written
completely is computed again.

The last bits of a logit depend on the padding of the batch that it was computed in, so where batches differ in width, a
run that fills the cache, one that reads it and one without it may differ in the last bits; where all have one width,
they are equal.
"""

import hashlib
import json
import logging
import os
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from sparsification.atomic_io import atomic_path

logger = logging.getLogger(__name__)
SAMPLE_INDEX = "feature_row"  # the column with the index of a feature in the training data
_INDEX = "index.uint32"
_NAMES = {"_name_or_path", "name_or_path", "transformers_version", "architectures"}


class TeacherCache:
    """Logits by feature, in files shared by the processes of a run and by later runs.

    Args:
        directory: created if missing.
        key: hash of what the logits depend on, see ``cache_key``.
        num_rows: number of features.
        width: length of the longest row, e.g. the number of tokens of the longest feature.
    """

    def __init__(self, directory: str | Path, key: str, num_rows: int, width: int):
        self._folder = Path(directory) / f"teacher-{key}"
        self._shape = num_rows, width
        self._stores: dict[str, np.ndarray] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._is_off = False  # the disk is full, or the outputs have no shape that can be cached
        self._index: np.ndarray | None = None  # (rows, 2): width and checksum; width 0: not cached

    def get(self, rows: Tensor, width: int) -> dict[str, Tensor] | None:
        """Look up logits.

        Args:
            rows: (batch,) indices of the features.
            width: width of the batch, e.g. its number of tokens with padding.

        Returns:
            Logits (batch, width) by output, or None if a row is not cached.
        """
        index = None if self._is_off else self._open()
        if index is None:
            return None
        numbers = rows.tolist()
        stored = [int(index[number, 0]) for number in numbers]
        if min(stored) < width or any(
            self._checksum(number, wide) != index[number, 1] for number, wide in zip(numbers, stored, strict=True)
        ):
            return None
        return {
            name: torch.from_numpy(store[numbers, :width]).view(self._dtypes[name]).to(rows.device)
            for name, store in self._stores.items()
        }

    def put(self, rows: Tensor, outputs: Mapping[str, Tensor]) -> None:
        """Write logits.

        Args:
            rows: (batch,) indices of the features.
            outputs: by name; a scalar loss is skipped. All others must be (batch, width) with one width that fits into
                a row; otherwise one warning is logged and the cache is off.
        """
        if self._is_off:
            return
        logits = {name: value for name, value in outputs.items() if isinstance(value, Tensor) and value.dim() > 0}
        widths = {value.shape[1] if value.dim() == 2 else -1 for value in logits.values()}
        if len(widths) != 1 or -1 in widths or max(widths) > self._shape[1]:
            shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in logits.items()) or "none"
            most = self._shape[1]
            self._turn_off(f"its outputs must be (batch, width) with one width of at most {most}, got {shapes}")
            return
        index = self._open()
        if index is None:
            try:
                index = self._make({name: value.dtype for name, value in logits.items()})
            except OSError as error:
                self._turn_off(str(error))
                return
        numbers, width = rows.tolist(), widths.pop()
        for name, value in logits.items():
            self._stores[name][numbers, :width] = _as_integers(value.detach().cpu()).numpy()
        for number in numbers:
            index[number] = width, self._checksum(number, width)

    def _turn_off(self, reason: str) -> None:
        logger.warning(f"The teacher's logits are not kept, and the teacher runs for every batch: {reason}")
        self._is_off = True

    def _checksum(self, number: int, width: int) -> int:
        checksum = 0
        for name in sorted(self._stores):
            checksum = zlib.crc32(self._stores[name][number, :width].data, checksum)
        return checksum

    def _make(self, dtypes: Mapping[str, torch.dtype]) -> np.ndarray:
        size = sum(dtype.itemsize for dtype in dtypes.values()) * self._shape[0] * self._shape[1]
        logger.info(f"The teacher's logits are cached in {self._folder}: up to {size / 1e6:.0f} MB.")
        self._folder.mkdir(parents=True, exist_ok=True)
        for name, dtype in dtypes.items():
            kind = str(dtype).removeprefix("torch.")
            _allocate(self._folder / f"{name}.{kind}", self._shape[0] * self._shape[1] * dtype.itemsize)
        _allocate(self._folder / _INDEX, self._shape[0] * 2 * 4)
        index = self._open()
        assert index is not None
        return index

    def _open(self) -> np.ndarray | None:
        """Map the files of this or of an earlier run, and return the index; None if there are no files."""
        if self._index is not None or not (self._folder / _INDEX).is_file():
            return self._index
        for path in self._folder.glob("[!.]*"):
            name, _, kind = path.name.rpartition(".")
            if path.name == _INDEX:
                self._index = np.memmap(path, np.uint32, "r+", shape=(self._shape[0], 2))
            else:
                self._dtypes[name] = getattr(torch, kind)
                self._stores[name] = np.memmap(path, f"i{self._dtypes[name].itemsize}", "r+", shape=self._shape)
        return self._index


def _as_integers(values: Tensor) -> Tensor:
    """The bits of floating-point numbers, because NumPy has no bfloat16."""
    return values.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[values.dtype.itemsize])


def _allocate(path: Path, num_bytes: int) -> None:
    """Create a file of zeros, unless it exists.

    On Linux its space is reserved: the process writes through mapped memory and would be killed if the disk were full
    then.

    The file gets its name when it is complete. If two processes create it at the same time, one of them may continue
    with a file that has lost its name. What that process writes is computed again later, because its logits and
    checksums are not in the same files.
    """
    if path.exists():
        return
    with atomic_path(path) as partial, open(partial, "wb") as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        else:
            file.truncate(num_bytes)


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
