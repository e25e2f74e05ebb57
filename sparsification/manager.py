"""Who applies a recipe to a model, step by step?"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
import torch.nn as nn
from torch import Tensor

from sparsification.errors import ManagerError as ManagerError
from sparsification.errors import printable
from sparsification.modifiers import (
    Clock,
    DistillationModifier,
    EpochRangeModifier,
    GradientSampledPruning,
    GradientSampler,
    LearningRateBase,
    Modifier,
    PerLayerDistillationModifier,
    QuantizationModifier,
)
from sparsification.pruning.sparsity import encoder_sparsity
from sparsification.recipe.loader import Recipe, load_recipe
from sparsification.schedule import curves as schedules
from sparsification.targets import Targets

logger = logging.getLogger(__name__)

_TAUGHT = (DistillationModifier, PerLayerDistillationModifier)


class ScheduledModifierManager:
    """Applies the modifiers of a recipe, each at its time.

    A training loop calls, in this order: ``initialize(model)`` once, and ``sample_with`` where a recipe needs gradients
    of its own; ``begin(clock)`` when training starts or resumes; and in each step ``update_loss`` (if there is a
    teacher), ``after_backward``, ``update``, the optimizer's own step, ``after_optimizer_step``; ``finalize`` at the
    end.

    Args:
        recipe: what to do; None or an empty recipe does nothing at all.
    """

    def __init__(self, recipe: Recipe | None = None):
        self.recipe = recipe
        self._model: nn.Module | None = None
        modifiers = list(recipe.modifiers) if recipe else []
        # SparseML's order: first what ends first, then what starts first.
        self.modifiers: list[Modifier] = sorted(
            modifiers,
            key=lambda modifier: (
                modifier.around_optimizer,
                modifier.window[1],
                modifier.window[0],
                type(modifier).__name__,
            ),
        )

    @classmethod
    def from_yaml(
        cls, source: str | Path, recipe_args: str | Mapping[str, object] | None = None
    ) -> ScheduledModifierManager:
        """Read a recipe from a file or from text; see ``load_recipe`` for its arguments and errors."""
        return cls(load_recipe(source, recipe_args))

    # What the recipe says about the run

    @property
    def max_epochs(self) -> float:
        """Length of the run in epochs; 0 where the recipe leaves it to the command line."""
        return max((m.end_epoch for m in self._all(EpochRangeModifier) if m.end_epoch > 0), default=0.0)

    @property
    def sets_learning_rate(self) -> bool:
        """Whether the recipe decides the learning rate."""
        return bool(self._all(LearningRateBase))

    @property
    def last_change_epoch(self) -> float:
        """Epoch of the last change of the model's structure or masks: no earlier checkpoint is what was asked for."""
        return max(
            (
                modifier.last_change_epoch
                for modifier in self.modifiers
                if modifier.changes_model and modifier.start_epoch <= (self.max_epochs or math.inf)
            ),
            default=-1.0,
        )

    @property
    def distills(self) -> bool:
        """Whether the recipe asks for a teacher."""
        return any(modifier.counts for modifier in self._all(_TAUGHT))

    @property
    def compares_layers(self) -> bool:
        """Whether the teacher's logits are not enough: it has to run beside the student."""
        return any(modifier.counts for modifier in self._all(PerLayerDistillationModifier))

    @property
    def quantizes(self) -> bool:
        """Whether the recipe asks for int8: in one shot, ``apply_once`` has to be followed by calibration batches."""
        return bool(self._all(QuantizationModifier))

    @property
    def num_calibration_steps(self) -> int | None:
        """How many batches set the ranges in one shot; None for all there are."""
        steps = [modifier.num_calibration_steps for modifier in self._all(QuantizationModifier)]
        return None if None in steps else max(steps, default=0)

    @contextlib.contextmanager
    def _telling(self, modifier: Modifier) -> Iterator[None]:
        """Let an error say which recipe and modifier it is about."""
        try:
            yield
        except ValueError as error:
            raise ManagerError(f"{self.recipe.source}: {type(modifier).__name__}: {printable(str(error))}") from error

    def _all(self, kind: type | tuple[type, ...]) -> list:
        return [modifier for modifier in self.modifiers if isinstance(modifier, kind)]

    # The moments of a run

    def initialize(self, model: nn.Module) -> None:
        """Find what the recipe names in the model and change its structure; once, before there is an optimizer.

        Raises:
            ManagerError: names that match nothing, shapes that do not fit, two modifiers that claim one weight.
        """
        self._model = model
        targets = Targets(model)
        problems = []
        for modifier in sorted(self.modifiers, key=lambda modifier: not modifier.layers_first):
            try:
                modifier.initialize(targets)
            except ValueError as error:
                problems.append(f"{type(modifier).__name__}: {error}")
        problems = problems or list(_fights(self.modifiers))
        if problems:
            where = self.recipe.source if self.recipe else "recipe"
            raise ManagerError("\n".join(f"{where}: {printable(problem)}" for problem in problems))

    def passed_over(self, example: Mapping[str, Tensor] | None = None) -> list[str]:
        """What the recipe means and its modifiers leave as it is, one sentence each; after ``initialize``.

        Args:
            example: inputs of the model, one row is enough; without it, nothing is said of modules that never run.
        """
        return [
            f"{self.recipe.source}: {type(modifier).__name__}: {text}"
            for modifier in self.modifiers
            for text in modifier.passed_over(example)
        ]

    def sample_with(self, sampler: GradientSampler) -> None:
        """Say where the modifiers that prune by gradients of single batches get them from."""
        for modifier in self._all(GradientSampledPruning):
            modifier.sampler = sampler

    def attach_teacher(self, teacher: nn.Module) -> None:
        """Find what the recipe names in the teacher; once, after ``initialize``.

        Raises:
            ManagerError: names that match nothing, or not as many layers as in the student.
        """
        for modifier in self._all(PerLayerDistillationModifier):
            with self._telling(modifier):
                modifier.attach_teacher(teacher)

    def begin(self, clock: Clock) -> None:
        """Training starts or resumes; the optimizer exists."""
        for modifier in self.modifiers:
            modifier.begin(clock)

    def distills_at(self, clock: Clock) -> bool:
        """Whether this step needs the teacher's outputs."""
        return any(modifier.is_active(clock) for modifier in self._all(_TAUGHT))

    def teacher_inputs(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What of the student's inputs, labels left out before, the teacher is given."""
        chosen = [m.teacher_input_keys for m in self._all(_TAUGHT) if m.teacher_input_keys is not None]
        return {name: value for name, value in inputs.items() if not chosen or any(name in keys for keys in chosen)}

    def update_loss(
        self,
        loss: Tensor,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        clock: Clock,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Add the terms of all distillations that are active: none of them weakens another one's.

        SparseML hands the sum so far from one modifier to the next, in the order of their ends: a later
        ``DistillationModifier`` multiplies the layers' term by 1 - hardness there.

        Args:
            loss: scalar task loss.
            student: outputs by name.
            teacher: the teacher's outputs for the same inputs.
            clock: the step.
            attention_mask: (batch, positions), 0 where the inputs are padded; None: nowhere.

        Returns:
            Scalar for the backward pass.

        Raises:
            ManagerError: the teacher's outputs do not fit the student's.
        """
        active = [modifier for modifier in self._all(_TAUGHT) if modifier.is_active(clock)]
        total = math.prod(modifier.task_share for modifier in active) * loss
        for modifier in active:
            with self._telling(modifier):
                total = total + modifier.loss_term(loss, student, teacher, attention_mask)
        return total

    def after_backward(self) -> None:
        """All gradients of the step are there, clipping comes next."""
        for modifier in self.modifiers:
            modifier.after_backward()

    def update(self, clock: Clock, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer's step comes next: new masks are computed from the weights before it."""
        for modifier in self.modifiers:
            with self._telling(modifier):
                modifier.update(clock, optimizer)
            self._warn_of_empty(modifier)

    def _warn_of_empty(self, modifier: Modifier) -> None:
        if names := modifier.newly_empty():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            logger.warning(
                f"{self.recipe.source}: {type(modifier).__name__}: the mask leaves nothing of {names[0]}{more}: "
                "all its weights are zero"
            )

    def learning_rate(self, clock: Clock, group: int, base: float) -> float:
        """Learning rate of a step.

        Args:
            clock: the step.
            group: index of the optimizer's parameter group.
            base: the group's learning rate where the recipe does not say.
        """
        started = [
            modifier
            for modifier in self._all(LearningRateBase)
            if (modifier.param_groups is None or group in modifier.param_groups)
            and clock.step >= clock.step_at(modifier.window[0])
        ]
        return max(started, key=lambda modifier: modifier.window[0]).lr_at(clock) if started else base

    def after_optimizer_step(self) -> None:
        """The optimizer has moved the weights, pruned ones too: undo in reverse what ``update`` did for it."""
        for modifier in reversed(self.modifiers):
            modifier.after_optimizer_step()

    def before_save(self) -> None:
        """The weights are about to be written."""
        for modifier in self.modifiers:
            modifier.before_save()

    def finalize(self) -> None:
        """Training is over."""
        for modifier in self.modifiers:
            modifier.finalize()

    def preview(self) -> None:
        """Let a trial of one step go through all that the recipe will do to losses and computation in time."""
        for modifier in self.modifiers:
            modifier.preview()

    def apply_once(self) -> None:
        """Bring an initialized model into its final state at one stroke, without training.

        Where the recipe quantizes, batches have to pass through the model before ``finalize``: they set the ranges.
        """
        for modifier in self.modifiers:
            with self._telling(modifier):
                modifier.apply_once()
            self._warn_of_empty(modifier)

    # What a resumed run and a dashboard want to know

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs beside the weights, by ``<modifier>/<name>``."""
        return {
            f"{label}/{name}": tensor.contiguous()
            for label, modifier in self._labelled()
            for name, tensor in modifier.state_dict().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state_dict`` gave to a manager of the same recipe."""
        for label, modifier in self._labelled():
            modifier.load_state_dict(_part(state, label))

    @contextlib.contextmanager
    def loading(self, state: Mapping[str, Tensor]) -> Iterator[None]:
        """Give the model the structure of the checkpoint with this state, while its weights are loaded."""
        for label, modifier in self._labelled():
            modifier.begin_loading(_part(state, label))
        yield
        for modifier in self.modifiers:
            modifier.end_loading()

    def scalars(self, clock: Clock) -> dict[str, float]:
        """Series for dashboards, named as SparseML names them where they mean the same.

        Those of the modifiers, how far each of them is in its window, and the zeros in the encoder.
        """
        series = self.sparsity()
        for label, modifier in self._labelled():
            start, end = modifier.window
            end = self.max_epochs or end if math.isinf(end) else end
            if start < end < math.inf:  # else it takes no time, never begins, or nobody knows when the run ends
                series[f"{label}/progress"] = schedules.progress(clock.epoch, start, end)
            for name, value in modifier.scalars(clock).items():
                series[name if "/" in name or " " in name else f"{label}/{name}"] = value
        return series

    def sparsity(self) -> dict[str, float]:
        """Share of zeros in the matrices of the encoder and of each of its layers; nothing without a recipe."""
        return encoder_sparsity(self._model) if self._model is not None and self.modifiers else {}

    def _labelled(self) -> list[tuple[str, Modifier]]:
        """Each modifier with the name of its class, numbered from the second of a kind on."""
        counts: dict[str, int] = {}
        labelled = []
        for modifier in self.modifiers:
            name = type(modifier).__name__
            counts[name] = counts.get(name, 0) + 1
            labelled.append((name if counts[name] == 1 else f"{name}.{counts[name]}", modifier))
        return labelled


def _part(state: Mapping[str, Tensor], label: str) -> dict[str, Tensor]:
    """The part of a manager's state that is one modifier's."""
    return {name.removeprefix(f"{label}/"): tensor for name, tensor in state.items() if name.startswith(f"{label}/")}


def _fights(modifiers: Iterable[Modifier]) -> Iterable[str]:
    """Say which modifiers would mask one weight at the same time."""
    for one, other in itertools.combinations(modifiers, 2):
        shared = [name for name in one.pruned() if name in set(other.pruned())]
        start, end = max(one.window[0], other.window[0]), min(one.window[1], other.window[1])
        if shared and start < end:
            yield (
                f"{type(one).__name__} and {type(other).__name__} both prune {shared[0]}"
                f"{f' and {len(shared) - 1} more' if len(shared) > 1 else ''} between epochs {start:g} and {end:g}"
            )
