"""Base of the modifiers that add a term to the loss from a teacher's outputs."""

from sparsification.base import Modifier, TrainingStep


class DistillationBase(Modifier):
    """A loss term that compares student and teacher, in the steps from ``start_epoch`` to ``end_epoch``.

    Annotates recipe keys only: a technique is a dataclass that declares them, and defines ``needs_teacher`` and
    ``loss_term``.
    """

    teacher_input_keys: list[str] | None  # None: all inputs of the student except the labels
    ignore_padding: bool  # whether to compare real tokens only; False: SparseML's loss

    @property
    def teacher_inputs(self) -> list[str] | None:
        return self.teacher_input_keys

    def is_active(self, now: TrainingStep) -> bool:
        """Whether the term is added at this step; the step at ``end_epoch`` is the last one, as in SparseML."""
        start, end = self.active_range
        return self.needs_teacher and now.step_at(start) <= now.step <= now.step_at(end)

    def preview(self) -> None:
        """Add the term in every step from now on."""
        self.start_epoch = self.end_epoch = -1.0
