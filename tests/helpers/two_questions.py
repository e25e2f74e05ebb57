"""A context of twelve words, and two questions about it with the logits of their answers."""

import re

import numpy as np

CONTEXT = "one two three four five six seven eight nine ten eleven twelve"
WORDS = [match.span() for match in re.finditer(r"\w+", CONTEXT)]


def two_questions() -> tuple[list[dict], list[dict], tuple[np.ndarray, np.ndarray]]:
    """Two questions of one feature each; the best answers are "two three" and "nine"."""
    examples = [{"id": "a", "context": CONTEXT}, {"id": "b", "context": CONTEXT}]
    features = [{"example_id": name, "offset_mapping": [None, None, *WORDS, None]} for name in "ba"]
    starts, ends = np.full((2, 15), -5.0, np.float32), np.full((2, 15), -5.0, np.float32)
    starts[0, 2 + 8] = ends[0, 2 + 8] = 4
    starts[1, 2 + 1] = ends[1, 2 + 2] = 4
    return examples, features, (starts, ends)
