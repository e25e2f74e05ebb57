"""How long an int8 layer takes in each form, as the library of the operators estimates it."""

import ctypes
from collections.abc import Iterable, Iterator

import numpy as np


class LayerWork(ctypes.Structure):
    """What the sparse forms have to do for each token; of ``csrc/cost.h``."""

    _fields_ = [("blocks", ctypes.c_double), ("windows", ctypes.c_double)]
    blocks: float  # 1x4 blocks that are not all zero
    windows: float  # steps; infinite where the CPU has no such kernel


class LayerCost(ctypes.Structure):
    """Nanoseconds for each token on one thread, without what each form takes for an output; of ``csrc/cost.h``."""

    _fields_ = [("dense", ctypes.c_double), ("blocks", ctypes.c_double), ("windows", ctypes.c_double)]
    dense: float
    blocks: float
    windows: float


def layer_costs(weights: Iterable[np.ndarray]) -> Iterator[tuple[LayerWork, LayerCost]]:
    """Estimate the times of int8 layers; the library is looked up once for all of them.

    Args:
        weights: int8 [out, in] of each, 65536 inputs at most.

    Raises:
        BuildError: there is no compiler for the operators, or it failed.
    """
    from sparsification.runtime.build import build  # not at the top: ``python -m`` runs that module itself

    library = ctypes.CDLL(str(build()))
    for weight in weights:
        dense = np.ascontiguousarray(weight, np.int8)
        outputs, inputs = (ctypes.c_int64(size) for size in dense.shape)
        work, cost = LayerWork(), LayerCost()
        pointer = dense.ctypes.data_as(ctypes.c_void_p)
        library.sparsification_layer_cost(inputs, outputs, pointer, ctypes.byref(work), ctypes.byref(cost))
        yield work, cost


def layer_cost(weight: np.ndarray) -> tuple[LayerWork, LayerCost]:
    """``layer_costs`` of one layer."""
    return next(layer_costs([weight]))
