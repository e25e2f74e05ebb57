"""Properties of a run that its recipe determines without a model: length, learning rate, teacher, quantization."""

import math

from torch import nn

from sparsification.base import Modifier, TrainingStep
from sparsification.distillation.base import DistillationBase
from sparsification.recipe.model import Recipe


class RecipeSummary:
    """Properties of a run.

    Args:
        recipe: None or an empty recipe changes nothing.
    """

    def __init__(self, recipe: Recipe | None = None):
        self.recipe = recipe
        modifiers = list(recipe.modifiers) if recipe else []
        # SparseML's order: by end, then by start.
        self.modifiers: list[Modifier] = sorted(
            modifiers,
            key=lambda modifier: (
                not modifier.averages_weights,
                modifier.update_last,
                modifier.active_range[1],
                modifier.active_range[0],
                type(modifier).__name__,
            ),
        )

    @property
    def source(self) -> str:
        """Where the recipe is from, for messages; empty without a recipe."""
        return self.recipe.source if self.recipe else ""

    @property
    def max_epochs(self) -> float:
        """Length of the run in epochs; 0 if the recipe does not set it."""
        return max((modifier.run_length for modifier in self.modifiers), default=0.0)

    @property
    def sets_learning_rate(self) -> bool:
        """Whether the recipe sets the learning rate."""
        return any(modifier.sets_learning_rate for modifier in self.modifiers)

    @property
    def final_epoch(self) -> float:
        """Epoch of the last change of the model's structure or masks; earlier checkpoints are unfinished."""
        return max(
            (
                modifier.final_epoch
                for modifier in self.modifiers
                if modifier.changes_weights and modifier.start_epoch <= (self.max_epochs or math.inf)
            ),
            default=-1.0,
        )

    @property
    def distills(self) -> bool:
        """Whether the recipe needs a teacher."""
        return any(modifier.needs_teacher for modifier in self.modifiers)

    def uses_labels(self, length: float) -> bool:
        """Whether labels have an effect in a run with a teacher.

        They have none if distillation with hardness 1 replaces the task loss in all steps, and no modifier samples
        gradients of the task loss.

        Args:
            length: length of the run in epochs; infinity if it is unknown.
        """
        replaced = any(
            modifier.needs_teacher
            and modifier.task_share == 0
            and modifier.active_range[0] == 0
            and modifier.active_range[1] >= length
            for modifier in self.modifiers
        )
        gradients = (modifier.sampled_gradients() for modifier in self.modifiers)
        return not replaced or any(sampled is not None and sampled.labels == "data" for sampled in gradients)

    @property
    def compares_padding(self) -> bool:
        """Whether the loss depends on the teacher's outputs at padded positions."""
        teaching = [modifier for modifier in self.modifiers if modifier.needs_teacher]
        return not all(isinstance(modifier, DistillationBase) and modifier.ignore_padding for modifier in teaching)

    @property
    def cached_layers(self) -> dict[str, nn.Module] | None:
        """The teacher's layers to cache beside its logits; None: the teacher must run in every step."""
        layers: dict[str, nn.Module] = {}
        for modifier in self.modifiers:
            if modifier.cached_layers is None:
                return None
            layers |= modifier.cached_layers
        return layers

    @property
    def quantizes(self) -> bool:
        """Whether the recipe quantizes; in one-shot mode, calibration batches must follow ``apply_one_shot``."""
        return any(modifier.quantizes for modifier in self.modifiers)

    @property
    def samples_data(self) -> bool:
        """Whether the recipe needs training data, in one shot too: calibration batches, or samples of its own."""
        return self.quantizes or any(modifier.samples_data for modifier in self.modifiers)

    @property
    def needs_reference(self) -> bool:
        """Whether the recipe needs the teacher's layers, in one shot too."""
        return any(modifier.needs_reference for modifier in self.modifiers)

    @property
    def num_calibration_steps(self) -> int | None:
        """Number of calibration batches in one-shot mode; None: all."""
        most = 0
        for modifier in self.modifiers:
            if modifier.calibration_steps is None:
                return None
            most = max(most, modifier.calibration_steps)
        return most

    def changes_loss_at(self, now: TrainingStep, has_teacher: bool = True) -> bool:
        """Whether a modifier adds a term to the loss of this step; without a teacher, one that does not need it."""
        return any(
            modifier.changes_loss(now) and (has_teacher or not modifier.needs_teacher) for modifier in self.modifiers
        )

    def distills_at(self, now: TrainingStep) -> bool:
        """Whether this step needs the teacher's outputs."""
        return any(modifier.needs_teacher and modifier.changes_loss(now) for modifier in self.modifiers)

    def learning_rate(self, now: TrainingStep, group: int, base: float) -> float:
        """Compute the learning rate of a step. Of several modifiers that set it, the one that started last counts.

        Args:
            now: the step.
            group: index of the optimizer's parameter group.
            base: learning rate of the group if the recipe does not set it.
        """
        latest = -1.0
        for modifier in self.modifiers:
            rate = modifier.lr_at(now, group)
            if rate is not None and modifier.active_range[0] > latest:
                latest, base = modifier.active_range[0], rate
        return base
