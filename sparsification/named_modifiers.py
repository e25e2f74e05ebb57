"""Modifiers by name, and their state in a checkpoint."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from sparsification.base import Modifier


class NamedModifiers:
    """Modifiers with labels: the name of the class, numbered from the second one of a class on.

    Args:
        modifiers: in an order that is the same in every run of a recipe.
    """

    def __init__(self, modifiers: Sequence[Modifier]):
        counts: dict[str, int] = {}
        self._named: list[tuple[str, Modifier]] = []
        for modifier in modifiers:
            name = type(modifier).__name__
            counts[name] = counts.get(name, 0) + 1
            self._named.append((name if counts[name] == 1 else f"{name}.{counts[name]}", modifier))

    def __iter__(self) -> Iterator[tuple[str, Modifier]]:
        return iter(self._named)

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs beside the weights, by ``<modifier>/<name>``."""
        return {
            f"{label}/{name}": tensor.contiguous()
            for label, modifier in self._named
            for name, tensor in modifier.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state_dict`` returned for the modifiers of the same recipe."""
        for label, modifier in self._named:
            modifier.load_state_dict(_part(state, label))

    @contextlib.contextmanager
    def loading(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Context in which the model has the structure of the checkpoint with this state, to load its weights."""
        for label, modifier in self._named:
            modifier.begin_loading(_part(state, label))
        yield
        for _, modifier in self._named:
            modifier.end_loading()


def _part(state: Mapping[str, Tensor], label: str) -> dict[str, Tensor]:
    """The state of one modifier."""
    return {name.removeprefix(f"{label}/"): tensor for name, tensor in state.items() if name.startswith(f"{label}/")}
