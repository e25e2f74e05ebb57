"""Costs and losses of a made-up model of two layers, which follow simple formulas."""

from sparsification.plan.costs import Cost, Costs
from sparsification.plan.losses import Losses
from sparsification.plan.units import BLOCKS, DENSE, SPARSITIES, UNSTRUCTURED, Option, Unit, options

SHAPE = (100, 100)
LAYERS = ["encoder.0", "encoder.1"]
OF_LAYER = Cost(0.3, 1e5)  # besides its unit
UNITS = [Unit(("encoder.0.weight",), *SHAPE), Unit(("encoder.1.weight",), *SHAPE)]
_DENSE = {"fp32": Cost(10.0, 4e6), "int8": Cost(4.0, 1e6)}  # of a layer
_REST = {"fp32": 2.0, "int8": 1.0}  # milliseconds of a model
_WEIGHT = {"encoder.0.weight": 1.0, "encoder.1.weight": 0.1}  # error in relation to the share of zeros


def _layer(option: Option) -> Cost:
    dense = _DENSE[option.precision]
    kept = 1 - option.sparsity if option.pattern != UNSTRUCTURED else 1.2 * (1 - option.sparsity)
    return Cost(dense.milliseconds * kept, dense.bytes * kept)


def make_costs() -> Costs:
    """Costs: a whole model takes its layers and the rest, in fp32 2 ms, in int8 1 ms; 2 MB."""
    layers = {SHAPE: {option: _layer(option) for precision in _DENSE for option in options(precision)}}
    pattern = {"fp32": UNSTRUCTURED, "int8": BLOCKS}
    timed = [
        option
        for precision in _DENSE
        for option in (
            Option(precision, DENSE),
            Option(precision, pattern[precision], 0.7),
            Option(precision, pattern[precision], 0.95),
        )
    ]
    models = {
        option: Cost(_REST[option.precision] + 2 * _layer(option).milliseconds, 2e6 + 2 * _layer(option).bytes)
        for option in timed
    }
    mixed = {
        precision: {SHAPE: Cost(_REST[precision] + 2 * cost.milliseconds, 2e6 + 2 * cost.bytes)}
        for precision, cost in _DENSE.items()
    }
    shorter = {
        option.precision: Cost(
            cost.milliseconds - _layer(option).milliseconds - OF_LAYER.milliseconds,
            cost.bytes - _layer(option).bytes - OF_LAYER.bytes,
        )
        for option, cost in models.items()
        if option.sparsity == 0.95
    }
    return Costs(layers, models, mixed, shorter)


def make_losses() -> Losses:
    """Errors that grow with the square of the sparsity, in blocks twice as fast; the second layer's are a tenth."""
    return Losses(
        {
            name: {
                "int8": 0.001,
                "sensitivity": 1.0,
                UNSTRUCTURED: {f"{s:g}": weight * s**2 for s in SPARSITIES},
                BLOCKS: {f"{s:g}": 2 * weight * s**2 for s in SPARSITIES},
            }
            for name, weight in _WEIGHT.items()
        }
    )
