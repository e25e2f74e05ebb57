"""Writer of n-best lists of answers as JSON.

As Python objects the lists would take ten times the memory, and json.dump most of the time of an evaluation.
"""

import json
from itertools import chain, islice, repeat
from json.encoder import encode_basestring_ascii as encode_text
from typing import Any, TextIO

import numpy as np
import pyarrow as pa

from sparsification.atomic_io import atomic_path

CHUNK = 256  # questions whose numbers are formatted at once
# Text before the values of one candidate in the file.
N_BEST_END = "\n        },"
N_BEST_KEYS = (
    f'{N_BEST_END}\n        {{\n            "text": ',
    ',\n            "probability": ',
    ',\n            "start_logit": ',
    ',\n            "end_logit": ',
)


class _NBestText:
    """N-best lists, formatted as JSON text while they are added."""

    def __init__(self) -> None:
        self.blocks: list[str] = []
        self.waiting: list[tuple[str, list[str], np.ndarray]] = []

    def add(self, name: str, texts: list[str], probabilities: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> None:
        """Append one question's list, best first."""
        self.waiting.append((name, texts, np.array([probabilities, starts, ends], float)))
        if len(self.waiting) == CHUNK:
            self._format()

    def _format(self) -> None:
        """Format the waiting lists; many numbers at once take a third of the time."""
        numbers = iter(_json_numbers(np.concatenate([values.ravel() for _, _, values in self.waiting])))
        for name, texts, _ in self.waiting:
            columns = [map(encode_text, texts), *(list(islice(numbers, len(texts))) for _ in range(3))]
            keyed = chain.from_iterable((repeat(key), column) for key, column in zip(N_BEST_KEYS, columns, strict=True))
            records = "".join(chain.from_iterable(zip(*keyed, strict=False))).removeprefix(N_BEST_END)
            self.blocks.append(f"    {encode_text(name)}: [{records}{N_BEST_END[:-1]}\n    ]")
        self.waiting = []

    def write_to(self, file: TextIO) -> None:
        """Write the same text as json.dump with an indent of 4."""
        if self.waiting:
            self._format()
        file.write("{\n" if self.blocks else "{")
        for number, block in enumerate(self.blocks):
            file.write((",\n" if number else "") + block)
        file.write("\n}" if self.blocks else "}")


def _json_numbers(values: np.ndarray) -> list[str]:
    """Format numbers as json does, with the fewest digits that identify the number."""
    texts = pa.array(values).cast(pa.string()).to_pylist()
    size = np.abs(values)
    alike = (
        (size >= 1e-4) & (size < 1e9) & (size != np.floor(size))
    )  # others have an exponent or a ".0", or are not finite
    for index in np.flatnonzero(~alike):
        texts[index] = json.dumps(float(values[index]))
    return texts


def write_json(path: str, content: Any) -> None:
    """Write a JSON file atomically."""
    with atomic_path(path) as partial, open(partial, "w", encoding="utf-8") as file:
        if isinstance(content, _NBestText):
            content.write_to(file)
        else:
            json.dump(content, file, indent=4)
        file.write("\n")
