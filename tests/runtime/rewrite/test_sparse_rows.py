"""The stored form of a sparse weight says all of its weights."""

import numpy as np
import pytest

from sparsification.runtime.rewrite.sparse_rows import sparse_rows


def _decoded(rows: dict[str, np.ndarray], inputs: int, width: int) -> np.ndarray:
    weight = np.zeros((len(rows["counts"]), -(-inputs // width), width), np.int8)
    entry = 0
    for row, count in enumerate(rows["counts"]):
        position = -1
        for _ in range(count):
            position += 1 + int(rows["gaps"][entry])
            weight[row, position] = rows["values"][entry]
            entry += 1
    assert entry == len(rows["gaps"]) == len(rows["values"])
    return weight.reshape(len(weight), -1)[:, :inputs]


@pytest.mark.parametrize("width", [1, 4])
@pytest.mark.parametrize("inputs", [3, 768, 3001])
@pytest.mark.parametrize("density", [0.0, 0.0005, 0.1, 1.0])
def test_every_weight_is_found_again(width, inputs, density):
    generator = np.random.default_rng(0)
    weight = generator.integers(-128, 128, (20, inputs)).astype(np.int8)
    weight[generator.random(weight.shape) >= density] = 0
    weight[0] = 0
    rows = sparse_rows(weight, width)
    np.testing.assert_array_equal(_decoded(rows, inputs, width), weight)


def test_a_long_run_of_zeros_is_bridged_by_as_few_entries_as_it_takes():
    weight = np.zeros((2, 1000), np.int8)
    weight[0, [0, 256, 999]] = 7
    weight[1, 255] = 7
    rows = sparse_rows(weight, 1)
    assert rows["counts"].tolist() == [5, 1]
    assert rows["gaps"].tolist() == [0, 255, 255, 255, 230, 255]
    assert rows["values"].tolist() == [7, 7, 0, 0, 7, 7]
