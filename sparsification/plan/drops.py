"""Encoder layers that a plan may drop: which go first, and what the model's outputs lose without them.

Each time that layer is dropped whose absence changes the outputs least, with those dropped that were dropped before.
"""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel

from sparsification.encoder import encoder_layer_lists
from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.plan.kept import kept_text, losses_file
from sparsification.plan.model_files import RUN, dropping
from sparsification.pruning.sensitivity import PROBED_BATCHES, Probe

Drops = Mapping[tuple[int, ...], float]  # losses by the indices of the layers that are dropped; () has 0
NONE: Drops = {(): 0.0}


def layer_names(model: PreTrainedModel) -> list[str]:
    """The layers of a model's encoder in their order.

    None if it has several lists of layers, or if its class could not load it without every other one.
    """
    lists = encoder_layer_lists(model)
    if len(lists) != 1:
        return []
    names = [f"{path}.{index}" for path, layers in lists.items() for index in range(len(layers))]
    return names if _without(model, [names[index] for index in every_other(names)]) is not None else []


def every_other(layers: Sequence[str]) -> tuple[int, ...]:
    """Indices of the layers without which a model is timed; none of a model with one layer."""
    return tuple(range(1, len(layers), 2))


def measure_drops(
    model: PreTrainedModel,
    layers: Sequence[str],
    batches: Sequence[Mapping[str, Tensor]],
    folder: Path,
    say: Callable[[str], None],
) -> Drops:
    """Measure what a model loses without some of its layers, at most half, or read what was measured before.

    Args:
        model: dense, in evaluation mode; not changed.
        layers: of its encoder.
        batches: calibration data, arguments of ``forward``.
        folder: of the files with results.
        say: is told each step.
    """

    def measure() -> str:
        say("Losses: of fewer layers")
        return json.dumps(_in_turn(model, layers, Probe(model, batches), say))

    path = losses_file(folder, "drops", model, batches, PROBED_BATCHES)
    return {tuple(sorted(order)): loss for order, loss in json.loads(kept_text(path, measure))}


def _in_turn(
    model: PreTrainedModel, layers: Sequence[str], probe: Probe, say: Callable[[str], None]
) -> list[tuple[list[int], float]]:
    steps: list[tuple[list[int], float]] = [([], 0.0)]
    for _ in range(len(layers) // 2):
        before = steps[-1][0]
        changes = {}
        for index in range(len(layers)):
            if index not in before and (shorter := _without(model, [layers[i] for i in (*before, index)])) is not None:
                changes[index] = probe.change_of(shorter)
        if not changes:
            break
        index = min(changes, key=changes.__getitem__)
        steps.append(([*before, index], changes[index]))
        say(f"  layers: without {', '.join(map(str, sorted(steps[-1][0])))}")
    return steps


def _without(model: PreTrainedModel, dropped: Sequence[str]) -> PreTrainedModel | None:
    """A copy without some layers; None if the model's class could not load it."""
    copied = copy.deepcopy(model).eval()
    try:
        ScheduledModifierManager.from_yaml(RUN + dropping(dropped)).initialize(copied)
    except ManagerError:
        return None
    return copied
