"""The layers of an encoder and their feed-forward blocks, as a plan changes them."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from sparsification.encoder import encoder_layer_lists
from sparsification.plan.units import PlanError
from sparsification.pruning.layer_thinning import WIDTHS

WIDTH_STEPS = 8  # widths are eighths of the dense one


@dataclass(frozen=True)
class Layer:
    """A layer and its feed-forward block."""

    name: str
    first: str  # module from the hidden size to the width
    second: str  # and back


@dataclass(frozen=True)
class Shape:
    """What stays of an encoder."""

    dropped: tuple[int, ...]  # indices of layers
    width: int  # neurons of each feed-forward block


@dataclass(frozen=True)
class Encoder:
    """The layers of an encoder, whose blocks have one width."""

    layers: tuple[Layer, ...]
    width: int

    def widths(self) -> list[int]:
        """Widths to choose from, ascending; the last one is the dense one."""
        return sorted({max(1, self.width * step // WIDTH_STEPS) for step in range(1, WIDTH_STEPS + 1)})

    def kept(self, shape: Shape) -> Iterator[Layer]:
        """The layers that stay."""
        return (layer for index, layer in enumerate(self.layers) if index not in shape.dropped)


def find_encoder(model: PreTrainedModel) -> Encoder:
    """Find the layers of a model's encoder.

    Raises:
        PlanError: it has fewer than two layers, or no plain feed-forward block of two Linear layers with the width that
            its configuration has.
    """
    lists = encoder_layer_lists(model)
    if len(lists) != 1:
        raise PlanError(f"--engine any needs a model with one list of layers, got {', '.join(lists) or 'none'}")
    ((path, layers),) = lists.items()
    if len(layers) < 2:
        raise PlanError(f"--engine any needs two layers or more, got {len(layers)} in {path}")
    config = model.config.to_dict()
    width = next((config[key] for key in WIDTHS if isinstance(config.get(key), int)), None)
    found = []
    for index, module in enumerate(layers):
        linears = {name: one for name, one in module.named_modules() if isinstance(one, nn.Linear)}
        firsts = [name for name, one in linears.items() if one.out_features == width != one.in_features]
        seconds = [name for name, one in linears.items() if one.in_features == width != one.out_features]
        if len(firsts) != 1 or len(seconds) != 1:
            raise PlanError(
                f"{path}.{index} has no plain feed-forward block of two Linear layers with {' or '.join(WIDTHS)} "
                f"neurons between them: neurons of a {type(model).__name__} cannot be removed"
            )
        name = f"{path}.{index}"
        found.append(Layer(name, f"{name}.{firsts[0]}", f"{name}.{seconds[0]}"))
    assert width is not None
    return Encoder(tuple(found), width)
