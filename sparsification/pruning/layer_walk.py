"""Visits the linear layers of a model in order, with their inputs in the pruned and their outputs in the dense model.

Layers that share their input (query, key and value) form a group. For each group the batches pass through the dense
model, for the outputs, and through the model as pruned so far, for the inputs. The outputs of the last finished encoder
layer are cached: ``forward`` of the layers up to it is replaced to return them, so that the model itself passes the
right masks and positions to the next layer, whatever its architecture. A forward pass ends after the group.

Memory: the cache takes 2 x 4 bytes x tokens (with padding) x hidden_size, ``reconstruction.Moments`` of one group the
rest.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from sparsification.pruning.reconstruction import Moments
from sparsification.pruning.sparsity import encoder_layers

Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Group:
    """Linear layers with the same inputs."""

    names: list[str]
    moments: Moments


@dataclass(frozen=True)
class _Stop:
    """Linear layers that share their inputs, or an encoder layer whose outputs are to be cached."""

    names: list[str]
    calls: int = 1  # in one forward pass
    is_layer: bool = False


class _PassedBy(Exception):
    """Ends a forward pass early."""


def walk(
    model: nn.Module, linears: Sequence[str], batches: Sequence[Batch], dense: nn.Module | None = None
) -> Iterator[Group]:
    """Visit linear layers in the order in which the model calls them.

    Args:
        model: in evaluation mode. Its weights may be changed when a group has been yielded.
        linears: names of the layers to visit.
        batches: arguments of ``forward``, on the model's device. Padding, where ``attention_mask`` is 0, is left out.
        dense: model with the same layers whose outputs are the targets; None: ``model`` with its present weights.

    Yields:
        Each group with its moments. Layers that the first batch does not reach are left out.
    """
    layers = [model.get_submodule(name) for name in linears]
    values = {parameter: parameter.detach().clone() for layer in layers for parameter in layer.parameters()}
    pruned = _Replay(model, batches, {})
    reference = _Replay(model, batches, values) if dense is None else _Replay(dense, batches, {})
    for stop in _stops(model, linears, batches[0]):
        if stop.is_layer:
            pruned.finish(stop.names[0])
            reference.finish(stop.names[0])
            continue
        modules = [_linear(model, name) for name in stop.names]
        moments = Moments(modules[0].in_features, [module.out_features for module in modules], modules[0].weight.device)
        for index, batch in enumerate(batches):
            mask = batch.get("attention_mask")
            [inputs] = pruned.inputs(index, stop)
            outputs = reference.outputs(index, stop)
            for call, states in enumerate(inputs):
                reached = [
                    tokens(output[call], mask) - (0.0 if module.bias is None else module.bias.detach())
                    for output, module in zip(outputs, modules, strict=True)
                ]
                moments.add(tokens(states, mask), reached)
        yield Group(stop.names, moments)


def _linear(model: nn.Module, name: str) -> nn.Linear:
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear)
    return module


def tokens(states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Flatten (batch, positions, width) to (tokens, width) without padding; other shapes have no padding."""
    if attention_mask is not None and states.dim() == 3 and states.shape[:2] == attention_mask.shape:
        return states[attention_mask.bool()]
    return states.flatten(end_dim=-2)


class _Replay:
    """Runs a model on the same batches repeatedly, each time from the last finished encoder layer on.

    Args:
        model: in evaluation mode.
        batches: arguments of ``forward``.
        values: values that parameters have during a run instead of their own.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch], values: Mapping[nn.Parameter, Tensor]):
        self.model = model
        self._batches = batches
        self._values = values
        self._finished: list[nn.Module] = []
        self._outputs: list[object] = []  # of the last finished layer, one for each batch

    def inputs(self, index: int, stop: _Stop) -> list[list[Tensor]]:
        """Record the common inputs of the modules for a batch: a list with one list of calls."""
        module = self.model.get_submodule(stop.names[0])
        return self._run(index, 1, stop.calls, lambda take: [on_input(module, partial(take, 0))])

    def outputs(self, index: int, stop: _Stop) -> list[list]:
        """Record the outputs of each module for a batch, a list of calls for each."""
        modules = [self.model.get_submodule(name) for name in stop.names]
        return self._run(
            index,
            len(modules),
            stop.calls,
            lambda take: [on_output(module, partial(take, i)) for i, module in enumerate(modules)],
        )

    def finish(self, name: str) -> None:
        """Cache the outputs of an encoder layer; it and the layers before it are not run any more."""
        outputs = [self.outputs(index, _Stop([name]))[0][0] for index in range(len(self._batches))]
        self._finished.append(self.model.get_submodule(name))
        self._outputs = outputs

    def _run(self, index: int, lists: int, calls: int, hook: Callable) -> list[list]:
        """Run a batch until the hooks have filled each of ``lists`` lists with ``calls`` values."""
        seen: list[list] = [[] for _ in range(lists)]

        def take(place: int, value: object) -> None:
            seen[place].append(value)
            if all(len(values) == calls for values in seen):
                raise _PassedBy

        usual = {parameter: parameter.data for parameter in self._values}
        for parameter, value in self._values.items():
            parameter.data = value
        handles = hook(take)
        try:
            with _returning(self._finished, self._outputs[index] if self._finished else None):
                forward(self.model, self._batches[index])
        except _PassedBy:
            pass
        finally:
            for handle in handles:
                handle.remove()
            for parameter, value in usual.items():
                parameter.data = value
        return seen


@contextlib.contextmanager
def _returning(layers: Sequence[nn.Module], output: object) -> Iterator[None]:
    """Replace ``forward`` of layers: they return ``output``."""
    for layer in layers:
        layer.forward = lambda *_, **__: output
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def forward(model: nn.Module, batch: Batch) -> object:
    """Run a model by the forward of its class, without the autocast of Accelerate, so that measurements are in fp32."""
    with torch.no_grad():
        return type(model).forward(model, **batch)


def on_input(module: nn.Module, do: Callable[[Tensor], None]) -> torch.utils.hooks.RemovableHandle:
    """Call ``do`` with the input of a module, however it is passed."""

    def hook(_: nn.Module, inputs: tuple, named: dict) -> None:
        do(inputs[0] if inputs else next(iter(named.values())))

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def on_output(module: nn.Module, do: Callable[[object], None]) -> torch.utils.hooks.RemovableHandle:
    """Call ``do`` with the output of a module."""

    def hook(_: nn.Module, __: tuple, output: object) -> None:
        do(output)

    return module.register_forward_hook(hook)


def _stops(model: nn.Module, linears: Sequence[str], batch: Batch) -> list[_Stop]:
    """Run a batch to find the order of linear layers and encoder layers."""
    inputs: dict[str, list[Tensor]] = {}
    order: list[tuple[str, bool]] = []  # name of a linear layer, False, or of a finished encoder layer, True

    def enter(name: str, states: Tensor) -> None:
        if name not in inputs:
            order.append((name, False))
        inputs.setdefault(name, []).append(states)

    def leave(name: str, output: object) -> None:
        order.append((name, True))
        outputs.append(output)

    layers = encoder_layers(model)
    outputs: list[object] = []
    handles = [on_input(model.get_submodule(name), partial(enter, name)) for name in linears]
    handles += [on_output(layer, partial(leave, name)) for name, layer in layers.items()]
    try:
        whole = forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    # Caching needs layers that run once each, in order, and a model that uses the output of the last one alone.
    chain = bool(layers) and [name for name, is_layer in order if is_layer] == list(layers)
    if chain:
        with _returning(list(layers.values()), outputs[-1]):
            chain = _same_values(whole, forward(model, batch))
    stops: list[_Stop] = []
    for name, is_layer in order:
        if is_layer:
            stops += [_Stop([name], is_layer=True)] if chain else []
        elif stops and not stops[-1].is_layer and _same(inputs[stops[-1].names[0]], inputs[name]):
            stops[-1].names.append(name)
        else:
            stops.append(_Stop([name], len(inputs[name])))
    while stops and stops[-1].is_layer:  # nothing needs its outputs
        stops.pop()
    return stops


def shared_inputs(model: nn.Module, linears: Sequence[str], batch: Batch) -> list[tuple[list[str], int]]:
    """Find the linear layers that share their inputs.

    Args:
        model: in evaluation mode.
        linears: names of layers.
        batch: arguments of ``forward``.

    Returns:
        In the order of their calls the names of each group and the number of its calls in one forward pass, without
        layers that the batch does not reach.
    """
    return [(stop.names, stop.calls) for stop in _stops(model, linears, batch) if not stop.is_layer]


def _same_values(one: object, other: object) -> bool:
    """Whether two outputs of a model have equal tensors."""
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and all(_same_values(value, other[name]) for name, value in one.items())
    if isinstance(one, list | tuple):
        return isinstance(other, list | tuple) and all(map(_same_values, one, other))
    return True


def _same(tensors: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(tensors) == len(others) and all(one is other for one, other in zip(tensors, others, strict=True))


def input_norms(model: nn.Module, linears: Sequence[str], batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Measure the root mean square of each input of linear layers, in one forward pass per batch.

    Args:
        model: in evaluation mode.
        linears: names of layers.
        batches: as in ``walk``.

    Returns:
        (in_features,) in fp32 for each layer that a batch reaches.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def add(name: str, states: Tensor, mask: Tensor | None) -> None:
        rows = tokens(states, mask).double()
        sums[name] = sums.get(name, 0.0) + rows.square().sum(dim=0)
        counts[name] = counts.get(name, 0) + len(rows)

    for batch in batches:
        mask = batch.get("attention_mask")
        handles = [on_input(model.get_submodule(name), partial(add, name, mask=mask)) for name in linears]
        try:
            forward(model, batch)
        finally:
            for handle in handles:
                handle.remove()
    return {name: (total / counts[name]).sqrt().float() for name, total in sums.items()}
