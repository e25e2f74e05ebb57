"""Layer thinning: units that structured pruning has zeroed are removed from the model."""

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

# Configuration keys of BERT and DistilBERT for the width between the two Linear layers of a feed-forward block.
WIDTHS = ("intermediate_size", "hidden_dim")


@dataclass(frozen=True)
class Group:
    """Weights that lose the same units."""

    members: dict[str, nn.Parameter]  # a unit is removed if it is zero in all of them
    readers: dict[str, nn.Parameter]  # lose the same units: biases, and matrices in the other dimension


@dataclass(kw_only=True)
class LayerThinningModifier(Modifier):
    r"""Remove neurons that are zero from the model at the end of training: it is smaller and faster in any engine.

    A row is removed if it and its bias are zero, a column if it is zero; the outputs of the model do not change, if its
    activation function maps zero to zero. In Transformers the feed-forward blocks of all layers have one width: each
    loses as many neurons as the block with the fewest zero neurons has, and its other zero neurons remain. Heads are
    not removed, because their size is the hidden size divided by their number.

    A key of ``param_group_dependency_map`` names weights that are zero in the same units, separated by commas; its list
    names the biases, and the matrices that lose the units in the other dimension. A key may be a "re:" pattern, to
    whose groups its list may refer: ``'re:(.*)\.intermediate\.dense\.weight':
    ['\1.intermediate.dense.bias', '\1.output.dense.weight']``. SparseML thins a model between two steps; here the
    optimizer and its checkpoints keep their shapes until the end of training.
    """

    param_group_dependency_map: dict[str, list[str]]  # {"a.weight,b.weight": [what loses the same units]}; see above
    structure_type: Literal["filter", "channel"] = "filter"  # whether units are the rows or the columns of the keys
    update_epochs: list[float] | None = None  # SparseML's key, no effect: units are removed at the end of training
    strict: bool = True  # SparseML's key, no effect: units that are zero in all weights of a group are removed

    removes_units: ClassVar[bool] = True

    def initialize(self, targets: Targets) -> None:
        self._dimension = 0 if self.structure_type == "filter" else 1
        self._groups = [group for group in self._resolve(targets) if group.members]
        widths = {
            weight.shape[dimension]: name for group in self._groups for name, weight, dimension in self._of(group)
        }
        if len(widths) > 1:
            (one, first), (other, second) = list(widths.items())[:2]
            raise ValueError(
                f"all weights must have the same number of units, got {first} with {one} and {second} with {other}"
            )
        self._width = next(iter(widths), 0)
        self._model = targets.pretrained()
        self._key = self._find_key()

    def _resolve(self, targets: Targets) -> Iterator[Group]:
        names = list(targets.parameters(ALL))
        for key, readers in self.param_group_dependency_map.items():
            if not key.startswith("re:"):
                yield Group(targets.parameters(key.split(",")), targets.parameters(readers))
                continue
            targets.parameters(key)  # raises if nothing matches
            for name in match_names(key, names):
                match = re.match(key.removeprefix("re:"), name)
                assert match is not None
                try:
                    own = [match.expand(reader) for reader in readers]
                except (re.error, IndexError) as error:
                    raise ValueError(f"'{key}' does not have the group that its list refers to: {error}") from error
                yield Group(targets.parameters(name), targets.parameters(own))

    def _of(self, group: Group) -> Iterator[tuple[str, nn.Parameter, int]]:
        """All weights of a group: name, weight, and the dimension in which it loses units."""
        for name, weight in group.members.items():
            if weight.dim() != 2:
                raise ValueError(f"layer thinning needs matrices, got {name} of shape {tuple(weight.shape)}")
            yield name, weight, self._dimension
        for name, weight in group.readers.items():
            if weight.dim() > 2:
                raise ValueError(f"layer thinning needs matrices, got {name} of shape {tuple(weight.shape)}")
            yield name, weight, 1 - self._dimension if weight.dim() == 2 else 0

    def _find_key(self) -> str | None:
        """The configuration key for the number of units, verified with a model that has one unit less."""
        if not self._groups:
            return None
        config = copy.deepcopy(self._model.config)
        key = next((key for key in WIDTHS if config.to_dict().get(key) == self._width), None)
        if key is None:
            first = next(iter(self._groups[0].members))
            raise ValueError(
                f"{first}: the model's configuration must have its {self._width} units as {' or '.join(WIDTHS)}, "
                "otherwise a smaller model could not be loaded"
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
                    f"with one unit less {name} would have shape {shape} instead of {list(smaller[name].shape)}, which "
                    f"{key} requires: param_group_dependency_map must name the weights of the feed-forward blocks of "
                    "all layers, and no others"
                )
        return key

    def finalize(self) -> None:
        present = {id(weight) for weight in self._model.parameters()}  # layers may have been dropped in training
        groups = [group for group in self._groups if all(id(weight) in present for weight in group.members.values())]
        zero_units = [self._zero_units(group) for group in groups]
        count = min([int(units.sum()) for units in zero_units] + [max(self._width - 1, 0)])
        if self._key is None or not groups or count == 0:
            logger.warning("LayerThinningModifier: one layer has no neurons that are zero; nothing is removed.")
            return
        for group, units in zip(groups, zero_units, strict=True):
            keep = torch.ones_like(units)
            keep[units.nonzero().flatten()[:count]] = False
            for _, weight, dimension in self._of(group):
                self._shrink(weight, keep.nonzero().flatten(), dimension)
        setattr(self._model.config, self._key, self._width - count)
        logger.info(f"LayerThinningModifier: {self._key} {self._width} -> {self._width - count}")

    def _zero_units(self, group: Group) -> Tensor:
        """Bool, (units,), True for those that are zero."""
        zero = [(weight == 0).all(dim=1 - self._dimension) for weight in group.members.values()]
        if self._dimension == 0:
            zero += [weight == 0 for weight in group.readers.values() if weight.dim() == 1]
        return torch.stack(zero).all(dim=0)

    def _shrink(self, weight: nn.Parameter, keep: Tensor, dimension: int) -> None:
        """Remove all units but ``keep`` (indices) from a weight in place, and update the sizes of its Linear layer."""
        weight.grad = None
        weight.data = weight.detach().index_select(dimension, keep)
        for module in self._model.modules():
            if isinstance(module, nn.Linear) and module.weight is weight:
                module.out_features, module.in_features = weight.shape
                quantizer = module.weight_quantizer if isinstance(module, FakeQuantizedLinear) else None
                if isinstance(quantizer, FakeQuantize) and dimension == 0:
                    quantizer.select(keep)
