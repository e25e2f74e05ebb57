"""What a recipe says about a run before there is a model: its length, learning rate, teacher and quantization."""

import math

from sparsification.base import Modifier, TrainingStep
from sparsification.recipe.loader import Recipe


class RecipeSummary:
    """Answers what a run has to know of its recipe.

    Args:
        recipe: None or an empty recipe asks for nothing at all.
    """

    def __init__(self, recipe: Recipe | None = None):
        self.recipe = recipe
        modifiers = list(recipe.modifiers) if recipe else []
        # SparseML's order: first what ends first, then what starts first.
        self.modifiers: list[Modifier] = sorted(
            modifiers,
            key=lambda modifier: (
                modifier.update_last,
                modifier.active_range[1],
                modifier.active_range[0],
                type(modifier).__name__,
            ),
        )

    @property
    def max_epochs(self) -> float:
        """Length of the run in epochs; 0 where the recipe leaves it to the command line."""
        return max((modifier.run_length for modifier in self.modifiers), default=0.0)

    @property
    def sets_learning_rate(self) -> bool:
        """Whether the recipe decides the learning rate."""
        return any(modifier.sets_learning_rate for modifier in self.modifiers)

    @property
    def final_epoch(self) -> float:
        """Epoch of the last change of the model's structure or masks: no earlier checkpoint is what was asked for."""
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
        """Whether the recipe asks for a teacher."""
        return any(modifier.needs_teacher for modifier in self.modifiers)

    @property
    def compares_layers(self) -> bool:
        """Whether the teacher's logits are not enough: it has to run beside the student."""
        return any(modifier.compares_layers for modifier in self.modifiers)

    @property
    def quantizes(self) -> bool:
        """Whether the recipe quantizes: in one shot, calibration batches have to follow ``apply_one_shot``."""
        return any(modifier.quantizes for modifier in self.modifiers)

    @property
    def num_calibration_steps(self) -> int | None:
        """How many batches set the ranges in one shot; None for all there are."""
        most = 0
        for modifier in self.modifiers:
            if modifier.calibration_steps is None:
                return None
            most = max(most, modifier.calibration_steps)
        return most

    def changes_loss_at(self, now: TrainingStep, has_teacher: bool = True) -> bool:
        """Whether a modifier adds a term to the loss of this step; without a teacher, one that needs none."""
        return any(
            modifier.changes_loss(now) and (has_teacher or not modifier.needs_teacher) for modifier in self.modifiers
        )

    def distills_at(self, now: TrainingStep) -> bool:
        """Whether this step needs the teacher's outputs."""
        return any(modifier.needs_teacher and modifier.changes_loss(now) for modifier in self.modifiers)

    def learning_rate(self, now: TrainingStep, group: int, base: float) -> float:
        """Learning rate of a step: of the modifiers that set it, the one that started last decides.

        Args:
            now: the step.
            group: index of the optimizer's parameter group.
            base: the group's learning rate where the recipe does not say.
        """
        latest = -1.0
        for modifier in self.modifiers:
            rate = modifier.lr_at(now, group)
            if rate is not None and modifier.active_range[0] > latest:
                latest, base = modifier.active_range[0], rate
        return base
