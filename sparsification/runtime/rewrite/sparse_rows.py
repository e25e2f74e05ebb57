"""The form in which a file stores a sparse weight; ``csrc/sparse_rows.h`` reads it."""

import numpy as np

_REACH = 256  # positions from one entry to the next that a gap can say


def sparse_rows(weight: np.ndarray, width: int) -> dict[str, np.ndarray]:
    """Encode the non-zero entries of a weight.

    Args:
        weight: [out, in].
        width: adjacent inputs of an entry, 1 or 4; the last entry of a row is filled up with zeros.

    Returns:
        ``counts``: uint32 [out], entries of each row.
        ``gaps``: uint8 [entries]; an entry's position is the one before it + 1 + gap, from -1 on in each row.
        ``values``: [entries] for width 1, else [entries, width]. Entries of zeros bridge longer gaps.
    """
    entries = as_entries(weight, width)
    stored = np.asarray(entries.any(-1))
    # A run of zeros that no gap can say gets an entry wherever its length is a multiple of what one can.
    for row in np.flatnonzero((~stored).sum(1) >= _REACH):
        positions = np.flatnonzero(stored[row])
        for last, position in zip([-1, *positions], positions, strict=False):
            stored[row, last + _REACH : position : _REACH] = True
    rows, positions = np.nonzero(stored)
    before = np.concatenate([[-1], positions[:-1]])
    before[np.flatnonzero(np.diff(rows, prepend=-1))] = -1
    values = entries[stored]
    return {
        "counts": stored.sum(1).astype(np.uint32),
        "gaps": (positions - before - 1).astype(np.uint8),
        "values": values[:, 0] if width == 1 else values,
    }


def as_entries(weight: np.ndarray, width: int) -> np.ndarray:
    """A weight [out, in] as [out, entries, width]; the last entry of a row is filled up with zeros."""
    rows, columns = weight.shape
    padded = np.zeros((rows, -(-columns // width) * width), weight.dtype)
    padded[:, :columns] = weight
    return padded.reshape(rows, -1, width)
