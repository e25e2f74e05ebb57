"""Layer dropping: whole encoder layers are removed from the model."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor

from sparsification.base import Modifier, TrainingStep
from sparsification.targets import Targets

# Settings of a configuration that have one entry for each layer: ModernBERT's and Longformer's.
PER_LAYER = ("layer_types", "attention_window")


@dataclass(kw_only=True)
class LayerPruningModifier(Modifier):
    """Drop whole layers at ``start_epoch``, and restore them at ``end_epoch`` if it is set.

    Sajjad et al. 2020, arXiv:2004.03844. The list of layers becomes shorter, the remaining layers are renumbered and
    the configuration is adapted (``num_hidden_layers``, and settings with one entry for each layer), so that the saved
    model is a plain model with fewer layers. Layers that are dropped from the start and for good are removed before
    training. Otherwise they are only left out of the list while the modifier is active; the optimizer does not change
    them then, because they have no gradients. A layer without which the model's class could not load the others is
    refused: layer 0 of ModernBERT, the only one without a norm before its attention, and the shared layer of ALBERT.
    """

    layers: list[str] | str  # numbered as in the loaded model: __ENCODER__.1, bert.encoder.layer.1, or "re:" patterns

    changes_weights: ClassVar[bool] = True
    initialize_first: ClassVar[bool] = True

    @property
    def layer_patterns(self) -> list[str]:
        return [self.layers] if isinstance(self.layers, str) else self.layers

    def warnings(self, length: float | None) -> Iterator[str]:
        end = self.active_range[1]
        if end <= (length or math.inf) and math.isfinite(end):
            yield f"the layers are restored at epoch {end:g}: the saved model has all of them"

    def initialize(self, targets: Targets) -> None:
        chosen = targets.layers(self.layers)
        self._model = targets.pretrained()
        self._lists: dict[str, tuple[nn.ModuleList, list[int]]] = {}  # the full list, and the indices to drop
        for path, indices in chosen.items():
            layers = self._model.get_submodule(path)
            assert isinstance(layers, nn.ModuleList)
            if len(indices) == len(layers):
                raise ValueError(f"at least one layer of {path} must remain, got all {len(layers)} to drop")
            self._lists[path] = layers, indices
        settings = {key: self._model.config.to_dict().get(key) for key in PER_LAYER}
        self._per_layer = {key: value for key, value in settings.items() if isinstance(value, list)}
        self._drop()
        problem = self._loading_problem()
        if problem or self.active_range != (0.0, math.inf):
            self._restore()
        if problem:
            raise ValueError(problem)

    def _loading_problem(self) -> str | None:
        """Why the model's class could not load what is left; None where it can."""
        with torch.device("meta"):
            plain = type(self._model)(copy.deepcopy(self._model.config))
        expected = {name: tuple(weight.shape) for name, weight in plain.named_parameters()}
        left = {name: tuple(weight.shape) for name, weight in self._model.named_parameters()}
        different = [name for name in {**expected, **left} if expected.get(name) != left.get(name)]
        if not different:
            return None
        names = ", ".join(f"{path}.{index}" for path, (_, indices) in self._lists.items() for index in indices)
        return f"{type(self._model).__name__} could not be loaded without {names}: {different[0]} would not fit"

    def on_train_begin(self, now: TrainingStep) -> None:
        self._set_active(self.was_active(now))

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        self._set_active(self.is_active(now))

    def after_optimizer_step(self) -> None:
        """Clear the gradients of dropped layers, so that later steps do not use them.

        The step in which the layers are dropped does use them, as in SparseML.
        """
        if self._dropped:
            for layers, indices in self._lists.values():
                for index in indices:
                    layers[index].zero_grad()

    def _set_active(self, dropped: bool) -> None:
        if dropped and not self._dropped:
            self._drop()
        elif self._dropped and not dropped:
            self._restore()

    def apply_one_shot(self) -> None:
        if self.active_range[1] == math.inf:
            self._drop()

    def _drop(self) -> None:
        for path, (layers, indices) in self._lists.items():
            self._put(path, layers, [index for index in range(len(layers)) if index not in indices])
        self._dropped = True

    def _restore(self) -> None:
        for path, (layers, _) in self._lists.items():
            self._put(path, layers, list(range(len(layers))))
        self._dropped = False

    def _put(self, path: str, layers: nn.ModuleList, kept: list[int]) -> None:
        """Make the layers with these indices the model's list, and adapt the configuration."""
        left = layers if len(kept) == len(layers) else nn.ModuleList(layers[index] for index in kept)
        self._model.set_submodule(path, left)
        self._model.config.num_hidden_layers = len(left)
        for key, values in self._per_layer.items():
            if len(values) == len(layers):
                setattr(self._model.config, key, [values[index] for index in kept])
        for index, layer in enumerate(left):
            for module in layer.modules():
                if "layer_idx" in vars(module):
                    vars(module)["layer_idx"] = index

    def state_dict(self) -> dict[str, Tensor]:
        """Whether the layers are dropped and, unless they are from the start, their weights, which the model lacks.

        They may be restored, and modifiers that prune them rank and count their weights until the end.
        """
        state = {"dropped": torch.tensor(self._dropped)}
        if self._dropped and self.active_range != (0.0, math.inf):
            for path, (layers, indices) in self._lists.items():
                for index in indices:
                    weights = layers[index].state_dict()
                    state |= {f"{path}.{index}.{name}": tensor for name, tensor in weights.items()}
        return state

    def begin_loading(self, state: dict[str, Tensor]) -> None:
        if bool(state["dropped"]) and not self._dropped:
            self._drop()

    def end_loading(self) -> None:
        start, end = self.active_range
        if self._dropped and (start > 0 or end < math.inf):
            self._restore()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for path, (layers, indices) in self._lists.items():
            for index in indices:
                prefix = f"{path}.{index}."
                own = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
                if own:
                    layers[index].load_state_dict(own)

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        return {f"LayerPruning/{path}": float(len(i)) if self._dropped else 0.0 for path, (_, i) in self._lists.items()}
