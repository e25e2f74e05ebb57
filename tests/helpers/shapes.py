"""Costs and losses of smaller shapes of a made-up encoder of four layers, which follow simple formulas."""

from sparsification.plan.costs import Cost
from sparsification.plan.shape.costs import ShapeCosts, timed_shapes
from sparsification.plan.shape.encoder import Encoder, Layer, Shape
from sparsification.plan.shape.losses import ShapeLosses

ENCODER = Encoder(tuple(Layer(f"encoder.{i}", f"encoder.{i}.first", f"encoder.{i}.second") for i in range(4)), width=80)


def cost_of(shape: Shape) -> Cost:
    """2 ms, and for each layer 1 ms and 0.02 ms for each neuron; a megabyte for each millisecond."""
    milliseconds = 2.0 + (4 - len(shape.dropped)) * (1.0 + 0.02 * shape.width)
    return Cost(milliseconds, 1e6 * milliseconds)


def make_costs(precision: str = "int8") -> ShapeCosts:
    """Costs; the dense model in fp32 takes four times as long as in int8."""
    dense = cost_of(Shape((), 80))
    return ShapeCosts(
        ENCODER,
        precision,
        {shape: cost_of(shape) for shape in timed_shapes(ENCODER)},
        Cost(4 * dense.milliseconds, 4 * dense.bytes),
    )


def make_losses() -> ShapeLosses:
    """A layer loses more than the one before; layer 2 can be dropped for little, layers 0 and 2 for much."""
    neurons = [{width: (index + 1) * (1 - width / 80) ** 2 for width in ENCODER.widths()} for index in range(4)]
    return ShapeLosses(neurons, {(): 0.0, (2,): 0.1, (0, 2): 5.0})
