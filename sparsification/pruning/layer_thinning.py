"""How does a model get smaller by what structured pruning has zeroed in it?"""

import copy
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from sparsification.base import Modifier
from sparsification.quantization.fake_quantize import FakeQuantize
from sparsification.quantization.modules import FakeQuantizedLinear
from sparsification.targets import ALL, Targets, match_names

logger = logging.getLogger(__name__)

# Settings that count the neurons between the two Linear layers of each feed-forward block: BERT's and DistilBERT's.
WIDTHS = ("intermediate_size", "hidden_dim")


@dataclass(frozen=True)
class Group:
    """Weights whose units go together."""

    members: dict[str, nn.Parameter]  # a unit goes where it is zero in all of them
    readers: dict[str, nn.Parameter]  # lose the same units: biases, and matrices in their other dimension


@dataclass(kw_only=True)
class LayerThinningModifier(Modifier):
    r"""Take neurons that are zero out of the model, at the end of training: it gets smaller and faster in any engine.

    A row goes where it and its bias are zero, a column where it is zero, so that the model computes what it computed
    (its activation takes zero to zero). Transformers has one width for the feed-forward blocks of all layers: all of
    them lose as many neurons as the one that has lost least, and zeros that are more stay. Heads cannot go, since their
    size is the hidden size divided by their number: those that are zero stay zero.

    A key of ``param_group_dependency_map`` names weights that are zero in the same units, with commas between them;
    its list names the biases, and the matrices that lose the units in their other dimension. A key may be a "re:"
    pattern, too, to whose groups its list refers: ``'re:(.*)\.intermediate\.dense\.weight':
    ['\1.intermediate.dense.bias', '\1.output.dense.weight']``. SparseML could thin a model between two steps; here
    the optimizer and its checkpoints keep their shapes until training is over.
    """

    param_group_dependency_map: dict[str, list[str]]  # {"a.weight,b.weight": [what else loses their units]}; see above
    structure_type: Literal["filter", "channel"] = "filter"  # whether units are the rows or the columns of the keys
    update_epochs: list[float] | None = None  # SparseML's moments for it: accepted, and made the end of training
    strict: bool = True  # SparseML's, without effect: where zeros of a group differ, what all have goes

    removes_units: ClassVar[bool] = True

    def initialize(self, targets: Targets) -> None:
        self._model = targets.model
        self._dimension = 0 if self.structure_type == "filter" else 1
        self._groups = [group for group in self._resolve(targets) if group.members]
        widths = {
            weight.shape[dimension]: name for group in self._groups for name, weight, dimension in self._of(group)
        }
        if len(widths) > 1:
            (one, first), (other, second) = list(widths.items())[:2]
            raise ValueError(f"{first} has {one} units and {second} {other}: a model has one width for all of them")
        self._width = next(iter(widths), 0)
        self._key = self._find_key()

    def _resolve(self, targets: Targets) -> Iterator[Group]:
        names = list(targets.parameters(ALL))
        for key, readers in self.param_group_dependency_map.items():
            if not key.startswith("re:"):
                yield Group(targets.parameters(key.split(",")), targets.parameters(readers))
                continue
            targets.parameters(key)  # or it says that nothing matches
            for name in match_names(key, names):
                match = re.match(key.removeprefix("re:"), name)
                try:
                    own = [match.expand(reader) for reader in readers]
                except (re.error, IndexError) as error:
                    raise ValueError(f"'{key}' has no such group: {error}") from error
                yield Group(targets.parameters(name), targets.parameters(own))

    def _of(self, group: Group) -> Iterator[tuple[str, nn.Parameter, int]]:
        """All weights of a group, each with the dimension in which it loses units."""
        for name, weight in group.members.items():
            if weight.dim() != 2:
                raise ValueError(f"{name} has shape {tuple(weight.shape)}: only rows and columns of matrices can go")
            yield name, weight, self._dimension
        for name, weight in group.readers.items():
            if weight.dim() > 2:
                raise ValueError(f"{name} has shape {tuple(weight.shape)}: only rows and columns of matrices can go")
            yield name, weight, 1 - self._dimension if weight.dim() == 2 else 0

    def _find_key(self) -> str | None:
        """The setting of the model that counts the units, proven by a model that has one less."""
        if not self._groups:
            return None
        config = copy.deepcopy(self._model.config)
        key = next((key for key in WIDTHS if config.to_dict().get(key) == self._width), None)
        if key is None:
            first = next(iter(self._groups[0].members))
            raise ValueError(
                f"{first}: no {' or '.join(WIDTHS)} of the model's configuration counts its {self._width} units, "
                "so that no smaller model could be loaded"
            )
        setattr(config, key, self._width - 1)
        with torch.device("meta"):
            smaller = dict(type(self._model)(config).named_parameters())
        thinned = {id(weight): dimension for group in self._groups for _, weight, dimension in self._of(group)}
        for name, weight in self._model.named_parameters():
            shape = list(weight.shape)
            if id(weight) in thinned:
                shape[thinned[id(weight)]] -= 1
            if shape != list(smaller[name].shape):
                raise ValueError(
                    f"with one unit less {name} would have shape {shape}, and {key} asks for "
                    f"{list(smaller[name].shape)}: param_group_dependency_map has to name the weights of the "
                    "feed-forward blocks of all layers, and no others"
                )
        return key

    def finalize(self) -> None:
        present = {id(weight) for weight in self._model.parameters()}  # layers may have been dropped in training
        groups = [group for group in self._groups if all(id(weight) in present for weight in group.members.values())]
        idle = [self._idle(group) for group in groups]
        count = min([int(units.sum()) for units in idle] + [max(self._width - 1, 0)])
        if not groups or count == 0:
            logger.warning(
                "LayerThinningModifier: there is a layer without neurons that are zero; nothing is taken out."
            )
            return
        for group, units in zip(groups, idle, strict=True):
            gone = units.nonzero().flatten()[:count]
            keep = torch.ones_like(units)
            keep[gone] = False
            for _, weight, dimension in self._of(group):
                self._shrink(weight, keep.nonzero().flatten(), dimension)
        setattr(self._model.config, self._key, self._width - count)
        logger.info(f"{self._key}: {self._width} before, {self._width - count} now")

    def _idle(self, group: Group) -> Tensor:
        """Bool, True for the units that are zero."""
        zero = [(weight == 0).all(dim=1 - self._dimension) for weight in group.members.values()]
        if self._dimension == 0:
            zero += [weight == 0 for weight in group.readers.values() if weight.dim() == 1]
        return torch.stack(zero).all(dim=0)

    def _shrink(self, weight: nn.Parameter, keep: Tensor, dimension: int) -> None:
        """Leave the units ``keep`` of a weight: the same Parameter, in a Linear layer that knows its new size."""
        weight.grad = None
        weight.data = weight.detach().index_select(dimension, keep)
        for module in self._model.modules():
            if isinstance(module, nn.Linear) and module.weight is weight:
                module.out_features, module.in_features = weight.shape
                quantizer = module.weight_quantizer if isinstance(module, FakeQuantizedLinear) else None
                if isinstance(quantizer, FakeQuantize) and dimension == 0:
                    quantizer.select(keep)
