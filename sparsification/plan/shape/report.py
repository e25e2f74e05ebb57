"""A plan of a smaller dense model as a table."""

from sparsification.plan.planner import BYTES, MILLISECONDS
from sparsification.plan.shape.planner import ShapePlan


def table(plan: ShapePlan) -> list[str]:
    """A line for each layer and for the rest of the model."""
    encoder, shape = plan.costs.encoder, plan.shape
    rest, layer, neuron = plan.costs.parts(MILLISECONDS)
    size_of_rest, size, size_of_neuron = plan.costs.parts(BYTES)
    milliseconds, megabytes = layer + neuron * shape.width, (size + size_of_neuron * shape.width) / 1e6
    name_width = max(len(one.name) for one in encoder.layers)
    lines = [f"{'layer':<{name_width}}  {'neurons':>13} {'ms':>7} {'MB':>7} {'loss':>7}"]
    for index, one in enumerate(encoder.layers):
        if index in shape.dropped:
            lines.append(f"{one.name:<{name_width}}  {'dropped':>13}")
            continue
        neurons, loss = f"{shape.width} of {encoder.width}", plan.losses.neurons[index][shape.width]
        lines.append(f"{one.name:<{name_width}}  {neurons:>13} {milliseconds:>7.3f} {megabytes:>7.3f} {loss:>7.3f}")
    if shape.dropped:
        lines.append(
            f"{'dropped layers':<{name_width}}  {'':>13} {'':>7} {'':>7} {plan.losses.drops[shape.dropped]:>7.3f}"
        )
    return [*lines, f"{'everything else':<{name_width}}  {'':>13} {rest:>7.3f} {size_of_rest / 1e6:>7.3f}"]


def reasons(plan: ShapePlan) -> list[str]:
    """Sentences about a plan."""
    layers, width = plan.costs.encoder.layers, plan.costs.encoder.width
    return [
        f"{len(layers) - len(plan.shape.dropped)} of {len(layers)} layers stay, and in each {plan.shape.width} of "
        f"{width} neurons.",
        "Loss: what fewer neurons change in the model's outputs, in units of their variance, one layer at a time, and "
        "how they change without the dropped layers; the sum is the smallest one within the target.",
    ]
