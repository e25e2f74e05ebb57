"""Rows of numbers in memory-mapped files, shared by the processes of a run and by later runs.

Each row has a checksum; a row that was not written completely counts as missing.
"""

import os
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sparsification.atomic_io import atomic_path

_INDEX = "index.uint32"


class RowStore:
    """Named arrays that have the same rows: row i has one length in all of them, but each array its own width.

    Args:
        folder: holds one file for each array, and the index; created by ``create``.
        lengths: (rows,) greatest length of each row, at least 1 each.
    """

    def __init__(self, folder: Path, lengths: np.ndarray):
        self.folder = folder
        self._starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])  # in positions, with the end
        self._arrays: dict[str, np.ndarray] = {}  # (positions, width), bits as integers
        self._dtypes: dict[str, torch.dtype] = {}
        self._index = np.empty((0, 2), np.uint32)  # (rows, 2): length and checksum, length 0: missing; empty: not open

    def sizes(self, columns: Mapping[str, tuple[torch.dtype, int]]) -> dict[Path, int]:
        """Size in bytes of each file, the index last.

        Args:
            columns: number type and width of each array.
        """
        positions, rows = int(self._starts[-1]), len(self._starts) - 1
        names = {name: f"{name}.{str(dtype).removeprefix('torch.')}" for name, (dtype, _) in columns.items()}
        files = {self.folder / names[name]: positions * n * dtype.itemsize for name, (dtype, n) in columns.items()}
        return files | {self.folder / _INDEX: rows * 2 * 4}

    def create(self, columns: Mapping[str, tuple[torch.dtype, int]]) -> None:
        """Create the files that do not exist.

        Args:
            columns: number type and width of each array.

        Raises:
            OSError: there is too little space, or no permission.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for path, size in self.sizes(columns).items():
            _allocate(path, size)

    def open(self) -> bool:
        """Map the files of this or of an earlier run; False if there are none."""
        if len(self._index) or not (self.folder / _INDEX).is_file():
            return len(self._index) > 0
        for path in self.folder.glob("[!.]*.*"):
            name, _, kind = path.name.rpartition(".")
            if path.name != _INDEX:
                self._dtypes[name] = getattr(torch, kind)
                flat = np.memmap(path, f"i{self._dtypes[name].itemsize}", "r+")
                self._arrays[name] = flat.reshape(self._starts[-1], -1)
        self._index = np.memmap(self.folder / _INDEX, np.uint32, "r+", shape=(len(self._starts) - 1, 2))
        return True

    def read(self, rows: Sequence[int], length: int | Sequence[int] | None = None) -> dict[str, Tensor] | None:
        """Read rows.

        Args:
            rows: their numbers.
            length: of all, or of each, from its beginning; None: each at its greatest length.

        Returns:
            The rows one after the other by array, (sum of the lengths, width), or None if one is missing or shorter.
        """
        wanted = length if isinstance(length, Sequence) else [length] * len(rows)
        if not self.open() or not all(map(self.has, rows, wanted)):
            return None
        spans = list(map(self._span, rows, wanted))
        return {
            name: torch.from_numpy(np.concatenate([array[span] for span in spans])).view(self._dtypes[name])
            for name, array in self._arrays.items()
        }

    def write(self, rows: Sequence[int], values: Mapping[str, Tensor], length: int | None = None) -> None:
        """Write rows; call after ``create`` or ``open``.

        Args:
            rows: their numbers.
            values: by array, as ``read`` returns them.
            length: of each; None: each at its greatest length.
        """
        spans = [self._span(row, length) for row in rows]
        bits = {name: _as_integers(value.detach().cpu()).numpy() for name, value in values.items()}
        first = 0
        for row, span in zip(rows, spans, strict=True):
            end = first + span.stop - span.start
            for name, array in self._arrays.items():
                array[span] = bits[name][first:end]
            self._index[row] = span.stop - span.start, self._checksum(span)
            first = end

    def has(self, row: int, length: int | None = None) -> bool:
        """Whether a row is stored completely, with at least this length; None: its greatest; call after ``open``."""
        stored, checksum = (int(number) for number in self._index[row])
        wanted = self._span(row, length)
        return stored >= wanted.stop - wanted.start and checksum == self._checksum(self._span(row, stored))

    def _span(self, row: int, length: int | None) -> slice:
        start = int(self._starts[row])
        return slice(start, int(self._starts[row + 1]) if length is None else start + length)

    def _checksum(self, span: slice) -> int:
        checksum = 0
        for name in sorted(self._arrays):
            checksum = zlib.crc32(self._arrays[name][span].data, checksum)
        return checksum


def to_positions(tokens: Tensor, mask: Tensor) -> Tensor:
    """Put the values of real tokens at their positions in a batch.

    Args:
        tokens: (tokens, width), of one row of the batch after the other.
        mask: (batch, positions), 0 where padded.

    Returns:
        (batch, positions, width), 0 where padded.
    """
    values = torch.zeros(*mask.shape, tokens.shape[1], dtype=tokens.dtype, device=mask.device)
    values[mask.bool()] = tokens.to(mask.device)
    return values


def _as_integers(values: Tensor) -> Tensor:
    """The bits of floating-point numbers, because NumPy has no bfloat16."""
    return values.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[values.dtype.itemsize])


def _allocate(path: Path, num_bytes: int) -> None:
    """Create a file of zeros, unless it exists.

    On Linux its space is reserved: the process writes through mapped memory and would be killed if the disk were full
    then.

    The file gets its name when it is complete. If two processes create it at the same time, one of them may continue
    with a file that has lost its name. What that process writes is computed again later, because its values and
    checksums are not in the same files.
    """
    if path.exists():
        return
    with atomic_path(path) as partial, open(partial, "wb") as file:
        if sys.platform == "linux":
            os.posix_fallocate(file.fileno(), 0, num_bytes)
        else:
            file.truncate(num_bytes)
