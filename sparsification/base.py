"""Base class of all modifiers: recipe keys, properties, and the hooks that managers and trainers call."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsification.samplers import CalibrationSampler, GradientSampler, SampledGradients
from sparsification.targets import Targets

MAX_EPOCHS = 1_000_000  # longest run; bounds the numbers that are computed from times
MIN_FREQUENCY = 1e-6  # epochs; shortest time between updates
_MINUS_ONE = {"start_epoch": "the start", "end_epoch": "the end of the run", "update_frequency": "every step"}


@dataclass(frozen=True)
class TrainingStep:
    """The time in a run just before optimizer step ``step``, counted from 0.

    Modifiers are functions of it wherever possible, so that a resumed run needs little state.
    """

    step: int
    steps_per_epoch: int  # optimizer steps; gradient accumulation and number of processes are included

    @property
    def epoch(self) -> float:
        """Epochs since the start, fractional."""
        return self.step / self.steps_per_epoch

    def step_at(self, epoch: float) -> float:
        """First optimizer step at or after ``epoch``; infinity for infinity."""
        step = epoch * self.steps_per_epoch - 1e-6  # undoes the rounding of products such as 0.07 * 100
        return math.ceil(step) if math.isfinite(step) else step


@dataclass(kw_only=True)
class Modifier:
    """One technique that a recipe applies to a model or its training, between ``start_epoch`` and ``end_epoch``.

    The fields are the keys of the recipe. The methods are hooks, named by their time; each does nothing unless it is
    overridden. ``update`` runs after the backward pass and before the optimizer step, as in SparseML. Manager, trainer,
    check and report use only these, so that your own modifiers have full support.
    """

    start_epoch: float = -1.0  # -1: from the start
    end_epoch: float = -1.0  # -1: until the end
    update_frequency: float = -1.0  # epochs between updates, if the technique has any; -1: every step
    log_types: str | list[str] | None = None  # "__ALL__": one logged series per parameter

    changes_weights: ClassVar[bool] = False  # a model saved before ``final_epoch`` is not the final one
    initialize_first: ClassVar[bool] = False  # initialized before the others, e.g. because it removes layers
    update_last: ClassVar[bool] = False  # updated after the others, e.g. because it replaces weights for the step
    acts_at_start: ClassVar[bool] = False  # acts once, at start_epoch; end_epoch has no effect
    sets_learning_rate: ClassVar[bool] = False  # ``lr_at`` gives the learning rate
    sets_requires_grad: ClassVar[bool] = False  # freezes or unfreezes parameters
    masks_weights: ClassVar[bool] = False  # keeps weights at zero
    masks_biases: ClassVar[bool] = False  # masks the biases of the rows that it masks
    removes_units: ClassVar[bool] = False  # ``finalize`` removes rows and columns that are zero from the model
    quantizes: ClassVar[bool] = False  # fake-quantizes modules
    averages_weights: ClassVar[bool] = False  # reads the weights last, after the others' ``after_optimizer_step``
    samples_data: ClassVar[bool] = False  # needs training data of its own, in one shot too

    def __post_init__(self) -> None:
        start, end, frequency = self.start_epoch, self.end_epoch, self.update_frequency
        for key, value in (("start_epoch", start), ("end_epoch", end), ("update_frequency", frequency)):
            if abs(value) > MAX_EPOCHS:
                raise ValueError(f"{key} must be at most {MAX_EPOCHS:,} epochs, got {value:g}")
            if value < -1:
                raise ValueError(f"{key} must be at least -1 ({_MINUS_ONE[key]}), got {value:g}")
        if -1 < end < 0:
            raise ValueError(f"end_epoch must be at least 0, or -1 ({_MINUS_ONE['end_epoch']}), got {end:g}")
        if 0 < frequency < MIN_FREQUENCY:
            raise ValueError(f"update_frequency must be -1 or at least {MIN_FREQUENCY:g} epochs, got {frequency:g}")
        if end != -1 and end < start:
            raise ValueError(f"end_epoch must be at least start_epoch, got {end:g} and {start:g}")

    @property
    def active_range(self) -> tuple[float, float]:
        """Start and end in epochs, with the two meanings of -1 resolved."""
        return max(self.start_epoch, 0.0), math.inf if self.end_epoch == -1 else self.end_epoch

    @property
    def final_epoch(self) -> float:
        """Epoch from which a saved model is the final one, if ``changes_weights``."""
        start, end = self.active_range
        return start if math.isinf(end) else end

    # What a recipe says about a run, without a model

    @property
    def run_length(self) -> float:
        """Length of the run in epochs that it sets; 0 if it sets none."""
        return 0.0

    @property
    def lr_groups(self) -> Sequence[int] | None:
        """Indices of the optimizer's groups whose learning rate it sets, if ``sets_learning_rate``; None: all."""
        return None

    def lr_at(self, now: TrainingStep, group: int = 0) -> float | None:
        """Learning rate of one of the optimizer's groups at a step; None if it does not set it then."""
        return None

    @property
    def calibration_steps(self) -> int | None:
        """Number of calibration batches that it needs in one shot; None: all batches."""
        return 0

    def sampled_gradients(self) -> SampledGradients | None:
        """Gradients that it samples for each mask, after ``initialize``; None: it samples none."""
        return None

    @property
    def needs_reference(self) -> bool:
        """Whether it prunes by the outputs of the teacher or its layers; if so, it needs one in one shot too."""
        return False

    @property
    def parameter_patterns(self) -> list[str]:
        """Names, patterns and tokens by which the recipe selects parameters."""
        return []

    @property
    def layer_patterns(self) -> list[str]:
        """Names and patterns of the layers that it drops while it is active."""
        return []

    @property
    def final_sparsities(self) -> list[float]:
        """Sparsities in [0, 1] to which it prunes on a schedule, one for each group of weights."""
        return []

    def target_sparsity(self, final: float, epoch: float, init: float | None = None) -> float:
        """Sparsity of the latest mask at an epoch, for the weights with one of ``final_sparsities``.

        Args:
            final: the final sparsity of the weights, in [0, 1].
            epoch: epoch of the run.
            init: sparsity of the weights at the start, if the recipe does not set it.

        Returns:
            Fraction in [0, 1]; 0 before ``start_epoch`` and after ``mask_end``; nan if it depends on the weights.
        """
        return 0.0

    @property
    def mask_end(self) -> float:
        """Epoch at which its masks are removed; infinity for never."""
        return math.inf

    def warnings(self, length: float | None) -> Iterable[str]:
        """Warnings about keys that are valid but probably not intended; ``length`` of the run in epochs or None."""
        return ()

    # The loss

    @property
    def needs_teacher(self) -> bool:
        """Whether ``loss_term`` needs the outputs of a teacher; if so, it is not called without one."""
        return False

    @property
    def logits_temperature(self) -> float | None:
        """Temperature at which ``loss_term`` compares logits with the teacher's; None: it compares none."""
        return None

    @property
    def cached_layers(self) -> Mapping[str, nn.Module] | None:
        """The teacher's layers to cache, by their outputs' names in ``teacher``; None: it must run in every step."""
        return {}

    @property
    def teacher_inputs(self) -> Sequence[str] | None:
        """Names of the inputs that the teacher receives; None: all of the student's except the labels."""
        return None

    @property
    def task_share(self) -> float:
        """Factor of the task loss in the steps in which ``loss_term`` is called."""
        return 1.0

    def changes_loss(self, now: TrainingStep) -> bool:
        """Whether ``loss_term`` is called in this step: if it is overridden and the modifier is active."""
        return type(self).loss_term is not Modifier.loss_term and self.is_active(now)

    def attach_teacher(self, teacher: nn.Module) -> None:
        """Find the modules of the teacher that the recipe names; called once, after ``initialize``."""

    def loss_term(
        self,
        task_loss: Tensor,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute the scalar that is added to ``task_share`` · task loss in steps in which ``changes_loss`` is true.

        Args:
            task_loss: scalar.
            student: outputs by name; logits (batch, ..., n).
            teacher: the teacher's outputs for the same inputs; may be empty unless ``needs_teacher``.
            attention_mask: (batch, positions), 0 where padded; None: no padding.
        """
        return torch.zeros_like(task_loss)

    # Hooks, in the order of a run

    def is_active(self, now: TrainingStep) -> bool:
        """Whether the step is in ``active_range``: at or after the start and before the end."""
        start, end = self.active_range
        return now.step_at(start) <= now.step < now.step_at(end)

    def was_active(self, now: TrainingStep) -> bool:
        """Whether it was active in the previous step, whose state a step begins with: ``update`` comes later."""
        return self.is_active(TrainingStep(max(now.step - 1, 0), now.steps_per_epoch))

    def initialize(self, targets: Targets) -> None:
        """Find the modules and parameters that the recipe names, and change the structure of the model if needed."""

    def set_gradient_sampler(self, sampler: GradientSampler) -> None:
        """Receive the source of gradients of single batches; called before training, if there is one."""

    def set_calibration_sampler(self, sampler: CalibrationSampler) -> None:
        """Receive the source of calibration batches; called before training or one-shot, if there is one."""

    def skipped_modules(self, example: Mapping[str, Tensor] | None) -> list[str]:
        """Modules of an initialized model that the recipe covers and that are left unchanged, one sentence each.

        ``example`` is the inputs of a forward pass on the model's device; None: modules that need them are left out.
        """
        return []

    def pruned_names(self) -> Iterable[str]:
        """Names of the weights that it masks while active; no other modifier may mask them at the same time."""
        return ()

    def zero_counts_at(self, epoch: float, before: Mapping[str, int]) -> dict[str, int]:
        """Number of zeros in each initialized weight that it masks, by name.

        Args:
            epoch: epoch of the run, at or after ``start_epoch``.
            before: number of zeros after the preceding modifiers, by name.
        """
        return {}

    def pop_fully_pruned(self) -> list[str]:
        """Names of the weights that a mask prunes completely, each returned once."""
        return []

    def on_train_begin(self, now: TrainingStep) -> None:
        """Training starts or resumes at this step: set flags and structure accordingly."""

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        """Called after the backward pass and clipping, before the optimizer step."""

    def after_backward(self) -> None:
        """Called after the backward pass of the last accumulated batch, before clipping."""

    def after_optimizer_step(self) -> None:
        """Called after the optimizer step."""

    def after_last_step(self) -> None:
        """Called at the end of training, before the last evaluation and checkpoint; may be called several times."""

    def finalize(self) -> None:
        """Called at the end of training."""

    def preview(self) -> None:
        """Called before a trial of one step: change losses and computation in it as later in the run."""

    def apply_one_shot(self) -> None:
        """Apply the final state at once, without training (one-shot)."""

    def zero_units(self) -> Sequence[str]:
        """Zero as many whole rows or columns as at the end, without data; the names of the weights that have some."""
        return ()

    def before_save(self) -> None:
        """Called before the weights are saved."""

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that a resumed run needs beside the weights and the step."""
        return {}

    def begin_loading(self, state: dict[str, Tensor]) -> None:
        """Called before the weights of a checkpoint are loaded: give the model the structure of that checkpoint."""

    def end_loading(self) -> None:
        """Called after the weights are loaded: give the model the structure for which the optimizer is created."""

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the state that ``state_dict`` returned."""

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        """Values for dashboards, by the name of the series."""
        return {}
