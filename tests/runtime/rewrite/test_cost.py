"""The estimate of a layer's time says which form is the fastest."""

import math

import numpy as np
import pytest

from helpers.exports import needs_compiler
from sparsification.runtime.build import available_kernels
from sparsification.runtime.rewrite.cost import layer_cost


def _weight(width: int, density: float) -> np.ndarray:
    generator = np.random.default_rng(0)
    keep = generator.random((192, 384 // width)) < density
    return generator.integers(1, 128, (192, 384)).astype(np.int8) * keep.repeat(width, axis=1)


@needs_compiler
def test_work_is_what_is_not_zero():
    weight = np.zeros((3, 9), np.int8)
    weight[0, [0, 3, 8]] = 1
    weight[2, 4] = -1
    work, _ = layer_cost(weight)
    assert work.blocks == 3
    assert work.windows == (1 if "avx512_vbmi" in available_kernels() else math.inf)


@needs_compiler
@pytest.mark.parametrize(
    ("width", "density", "fastest"), [(4, 0.1, "blocks"), (4, 0.9, "dense"), (1, 0.8, "dense"), (1, 0.1, "sparse")]
)
def test_fastest_form(width, density, fastest):
    _, cost = layer_cost(_weight(width, density))
    if fastest == "sparse":  # windows, where the CPU has them
        assert min(cost.blocks, cost.windows) < 0.7 * cost.dense
    else:
        times = {name: getattr(cost, name) for name in ("dense", "blocks", "windows")}
        assert min(times, key=times.__getitem__) == fastest
