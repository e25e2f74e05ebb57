"""What is a modifier, and when in a training step is it asked to act?"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsification.targets import Targets

MAX_EPOCHS = 1_000_000  # no run is longer: what is computed with times stays a number of sensible size
MIN_FREQUENCY = 1e-6  # epochs; no step is shorter

# (parameters, count, batch size or None for the run's own, moment) -> the gradients of the task loss on ``count``
# batches of training data, one batch at a time. The choice of batches is a function of the moment, and of the run's
# seed: a resumed run sees the same ones.
GradientSampler = Callable[[Sequence[nn.Parameter], int, int | None, tuple[int, int]], Iterator[Sequence[Tensor]]]

_MINUS_ONE = {"start_epoch": "the start", "end_epoch": "the end of the run", "update_frequency": "every step"}


@dataclass(frozen=True)
class TrainingStep:
    """The moment in a run at which optimizer step ``step`` (from 0) is about to be taken.

    Modifiers are pure functions of it wherever they can be, so that a resumed run needs no memory of their past.
    """

    step: int
    steps_per_epoch: int  # optimizer steps, gradient accumulation and processes counted

    @property
    def epoch(self) -> float:
        return self.step / self.steps_per_epoch

    def step_at(self, epoch: float) -> float:
        """First optimizer step at or after ``epoch``; infinity for infinity."""
        # The small term undoes the rounding of products such as 0.07 * 100.
        step = epoch * self.steps_per_epoch - 1e-6
        return math.ceil(step) if math.isfinite(step) else step


@dataclass(kw_only=True)
class Modifier:
    """One thing that a recipe does to a model or its training, between two moments of the run.

    The fields are the keys of the recipe. The methods are named by their moment; each does nothing unless a technique
    needs it. ``update`` runs after the backward pass and before the optimizer step, as it does in SparseML. Manager,
    trainer, check and report ask a modifier by these methods and properties alone, never by its class: a modifier of
    your own takes part in everything that it overrides.
    """

    start_epoch: float = -1.0  # -1: from the start
    end_epoch: float = -1.0  # -1: until the end
    update_frequency: float = -1.0  # epochs between updates, where a technique has any; -1: every step
    log_types: str | list[str] | None = None  # "__ALL__": one logged series per parameter

    changes_weights: ClassVar[bool] = False  # what is saved before its window ends is not yet what was asked for
    initialize_first: ClassVar[bool] = False  # initialized before the others, which then see the layers that remain
    update_last: ClassVar[bool] = False  # updated after the others, which see the weights as they compute
    acts_at_start: ClassVar[bool] = False  # acts once, at start_epoch; its window has no length
    sets_learning_rate: ClassVar[bool] = False  # ``lr_at`` gives the learning rate
    sets_requires_grad: ClassVar[bool] = False  # freezes parameters, or lets them learn
    masks_weights: ClassVar[bool] = False  # holds weights at zero
    masks_units: ClassVar[bool] = False  # the zeros are whole rows or columns, and take their biases with them
    removes_units: ClassVar[bool] = False  # ``finalize`` takes rows and columns that are zero out of the model
    quantizes: ClassVar[bool] = False  # fake-quantizes modules

    def __post_init__(self) -> None:
        for key in ("start_epoch", "end_epoch", "update_frequency"):
            if abs(getattr(self, key)) > MAX_EPOCHS:
                raise ValueError(f"{key} {getattr(self, key):g}: no run has more than {MAX_EPOCHS:,} epochs")
            if getattr(self, key) < -1:
                raise ValueError(f"{key} {getattr(self, key):g} is below -1, which stands for {_MINUS_ONE[key]}")
        if -1 < self.end_epoch < 0:
            raise ValueError(f"end_epoch {self.end_epoch:g} is before the run; -1 stands for {_MINUS_ONE['end_epoch']}")
        if 0 < self.update_frequency < MIN_FREQUENCY:
            raise ValueError(
                f"update_frequency {self.update_frequency:g} is shorter than any step: -1 means every step"
            )
        if self.end_epoch != -1 and self.end_epoch < self.start_epoch:
            raise ValueError(f"end_epoch {self.end_epoch} lies before start_epoch {self.start_epoch}")

    @property
    def active_range(self) -> tuple[float, float]:
        """Start and end in epochs, with the two meanings of -1 resolved."""
        return max(self.start_epoch, 0.0), math.inf if self.end_epoch == -1 else self.end_epoch

    @property
    def final_epoch(self) -> float:
        """Epoch from which a saved model is what was asked for, where ``changes_weights``."""
        start, end = self.active_range
        return start if math.isinf(end) else end

    # What a recipe says about a run; none of it needs a model

    @property
    def run_length(self) -> float:
        """Length of the run in epochs that it asks for; 0 for none."""
        return 0.0

    @property
    def lr_groups(self) -> Sequence[int] | None:
        """Indices of the optimizer's groups whose learning rate it sets, where ``sets_learning_rate``; None: all."""
        return None

    def lr_at(self, now: TrainingStep, group: int = 0) -> float | None:
        """Learning rate of one of the optimizer's groups at a step; None where it does not set it."""
        return None

    @property
    def calibration_steps(self) -> int | None:
        """How many batches set its quantization ranges in one shot; 0: none are needed, None: all that there are."""
        return 0

    @property
    def parameter_patterns(self) -> list[str]:
        """The names, patterns and tokens by which the recipe chooses parameters."""
        return []

    @property
    def layer_patterns(self) -> list[str]:
        """The names and patterns of layers that it drops while it is active."""
        return []

    @property
    def final_sparsities(self) -> list[float]:
        """The sparsities, in [0, 1], to which it prunes on a schedule: one for each group of weights."""
        return []

    def target_sparsity(self, final: float, epoch: float, init: float | None = None) -> float:
        """Sparsity of the last mask made up to an epoch, for the weights with one of ``final_sparsities``.

        Args:
            final: their final sparsity.
            epoch: any.
            init: what they have at the start, where the recipe leaves it to the weights.

        Returns:
            Fraction; 0 before the window and after ``mask_end``, nan where it is the weights' own.
        """
        return 0.0

    @property
    def mask_end(self) -> float:
        """Epoch from which the weights that it masks learn again; infinity for never."""
        return math.inf

    def warnings(self, length: float | None) -> Iterable[str]:
        """What is legal in its keys and probably not meant, one sentence each.

        Args:
            length: epochs of the run; None where the recipe does not say.
        """
        return ()

    # The loss

    @property
    def needs_teacher(self) -> bool:
        """Whether ``loss_term`` takes a teacher's outputs; without a teacher it is not called then."""
        return False

    @property
    def compares_layers(self) -> bool:
        """Whether the teacher has to run beside the student in every step: cached logits are not enough."""
        return False

    @property
    def teacher_inputs(self) -> Sequence[str] | None:
        """Names of the inputs that the teacher is given; None: all of the student's but the labels."""
        return None

    @property
    def task_share(self) -> float:
        """Factor of the task loss in steps in which ``loss_term`` is called."""
        return 1.0

    def changes_loss(self, now: TrainingStep) -> bool:
        """Whether ``loss_term`` is called in this step: where it is overridden, and the window holds the step."""
        # The question comes before the outputs exist, and a modifier that overrides the method has answered it.
        return type(self).loss_term is not Modifier.loss_term and self.is_active(now)

    def attach_teacher(self, teacher: nn.Module) -> None:
        """Find what the recipe names in the teacher; once, after ``initialize``."""

    def loss_term(
        self,
        task_loss: Tensor,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute what is added to ``task_share`` · task loss in the steps for which ``changes_loss`` holds.

        Args:
            task_loss: scalar.
            student: outputs by name; logits (batch, ..., n).
            teacher: the teacher's outputs for the same inputs; may be empty unless ``needs_teacher``.
            attention_mask: (batch, positions), 0 where padded; None: nothing is.

        Returns:
            Scalar.
        """
        return torch.zeros_like(task_loss)

    # The moments of a run

    def is_active(self, now: TrainingStep) -> bool:
        """Whether the window [start, end) holds the step."""
        start, end = self.active_range
        return now.step_at(start) <= now.step < now.step_at(end)

    def was_active(self, now: TrainingStep) -> bool:
        """Whether to begin this step as in the window: what changes at a step changes after its backward pass."""
        return self.is_active(TrainingStep(max(now.step - 1, 0), now.steps_per_epoch))

    def initialize(self, targets: Targets) -> None:
        """Find what the recipe names, and change the structure of the model where that is the technique."""

    def set_gradient_sampler(self, sampler: GradientSampler) -> None:
        """Take what gives gradients of the task loss on single batches; before training, where there is any."""

    def skipped_modules(self, example: Mapping[str, Tensor] | None) -> list[str]:
        """What of an initialized model it leaves as it is, though the recipe means it: one sentence each.

        Args:
            example: inputs of one forward pass, on the model's device; None: nothing is said that takes one.
        """
        return []

    def pruned_names(self) -> Iterable[str]:
        """Names of the weights that it masks within its window: no other modifier may mask them at the same time."""
        return ()

    def zero_counts_at(self, epoch: float, before: Mapping[str, int]) -> dict[str, int]:
        """Zeros that its masks leave in each initialized weight at an epoch of its window or later, by name.

        Args:
            epoch: any from the start of its window on.
            before: zeros that the modifiers before it leave.
        """
        return {}

    def pop_fully_pruned(self) -> list[str]:
        """Names of the weights of which a mask has left nothing, each told once."""
        return []

    def on_train_begin(self, now: TrainingStep) -> None:
        """Training starts or resumes at this step: put flags and structure into the state that belongs to it."""

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        """Gradients are there, the optimizer step comes next."""

    def after_backward(self) -> None:
        """Gradients have been summed and will be clipped next."""

    def after_optimizer_step(self) -> None:
        """The optimizer has moved the weights."""

    def finalize(self) -> None:
        """Training is over."""

    def preview(self) -> None:
        """A trial of a single step comes next: change losses and computation in it as later in the run."""

    def apply_one_shot(self) -> None:
        """Bring the model into its final state at one stroke: there is no training (one shot)."""

    def before_save(self) -> None:
        """The weights are about to be written."""

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that a resumed run cannot derive from the weights and the clock."""
        return {}

    def begin_loading(self, state: dict[str, Tensor]) -> None:
        """The weights of a checkpoint with this state come next: give the model the structure that it had then."""

    def end_loading(self) -> None:
        """The weights are in: give the model the structure from which an optimizer is made."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what ``state_dict`` gave."""

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        """What dashboards show, by the name of the series."""
        return {}
