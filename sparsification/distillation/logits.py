"""What does a student learn from its teacher?"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsification.base import Modifier, TrainingStep
from sparsification.model_outputs import INTERMEDIATE_OUTPUTS

_IMPOSSIBLE = torch.finfo(torch.float16).min  # a logit without probability, finite in 16 bits and at any temperature


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the softened distributions, times the squared temperature.

    Hinton et al. 2015, arXiv:1503.02531: T² keeps the gradients at the scale of the task's.

    Args:
        student: logits, (..., n); the last dimension is the one of the distribution, e.g. positions.
        teacher: logits of the same shape.
        temperature: softens both distributions, > 0.

    Returns:
        Scalar, mean over all but the last dimension.
    """
    student = torch.log_softmax(student.float() / temperature, dim=-1)
    teacher = torch.log_softmax(teacher.float() / temperature, dim=-1)
    divergence = torch.nn.functional.kl_div(student, teacher, reduction="sum", log_target=True)
    return divergence * temperature**2 / (student.numel() / student.shape[-1])


def without_padding(logits: Tensor, attention_mask: Tensor) -> Tensor:
    """Leave padded positions out of the distributions that logits are.

    Args:
        logits: (batch, positions), each row a distribution over positions, or (batch, positions, n), one at each.
        attention_mask: (batch, positions), 0 where padded.

    Returns:
        Logits of the same shape with no probability on padded positions, or (tokens, n); others as they are.
    """
    if logits.shape == attention_mask.shape:
        return logits.masked_fill(attention_mask == 0, _IMPOSSIBLE)
    if logits.shape[:-1] == attention_mask.shape:
        return logits[attention_mask.bool()]
    return logits


def agreement(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Share of the features for which both find the same: the largest logits stand at the same places.

    Args:
        student: logits (batch, ..., n), one tensor for each output, e.g. of starts and of ends.
        teacher: the same.

    Returns:
        Scalar in [0, 1].
    """
    same = [
        (own.argmax(-1) == other.argmax(-1)).reshape(len(own), -1).all(1)
        for own, other in zip(student, teacher, strict=True)
    ]
    return torch.stack(same).all(0).float().mean()


@dataclass(kw_only=True)
class DistillationModifier(Modifier):
    """Mix the teacher's opinion into the loss: (1 - hardness) · task + hardness · distillation.

    Padded positions take part unless ``ignore_padding`` is set, as they do in SparseML. Where several distillations are
    active, each adds its own term, and the task's is multiplied by each 1 - hardness.
    """

    hardness: float = 0.5  # share of the distillation loss, in [0, 1]
    temperature: float = 2.0
    distill_output_keys: list[str | int] | None = None  # None: every floating-point output that both have
    teacher_input_keys: list[str] | None = None  # None: all inputs of the student but the labels
    ignore_padding: bool = False  # whether to compare real tokens only; False: SparseML's loss

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.hardness <= 1:
            raise ValueError(f"hardness {self.hardness} is no fraction between 0 and 1")
        if self.temperature <= 0:
            raise ValueError(f"temperature {self.temperature} is not above 0")
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    @property
    def needs_teacher(self) -> bool:
        return self.hardness > 0

    @property
    def teacher_inputs(self) -> list[str] | None:
        return self.teacher_input_keys

    @property
    def task_share(self) -> float:
        return 1 - self.hardness

    def is_active(self, now: TrainingStep) -> bool:
        """Whether to distill at this step; the one at ``end_epoch`` is the last."""
        start, end = self.active_range
        return self.needs_teacher and now.step_at(start) <= now.step <= now.step_at(end)

    def warnings(self, length: float | None) -> Iterator[str]:
        if not self.needs_teacher:
            yield "hardness 0: its term counts nothing, and the teacher is never asked for it"

    def output_keys(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> list[str]:
        """The outputs to distill.

        Raises:
            ValueError: an output that the recipe names is missing, or the shapes do not agree.
        """
        names = [name for name, value in student.items() if isinstance(value, Tensor) and name != "loss"]
        if self.distill_output_keys is None:
            heads = [name for name in names if name not in INTERMEDIATE_OUTPUTS]
            keys = [name for name in heads if student[name].is_floating_point() and name in teacher]
        else:
            keys = [
                names[key] if isinstance(key, int) and key < len(names) else key for key in self.distill_output_keys
            ]
        for key in keys:
            for who, outputs in (("student", student), ("teacher", teacher)):
                if key not in outputs:
                    there = ", ".join(name for name in outputs if name != "loss")
                    raise ValueError(f"the {who} has no output '{key}' to distill, only {there}")
            if student[key].shape != teacher[key].shape:
                raise ValueError(
                    f"'{key}' is {tuple(student[key].shape)} in the student and {tuple(teacher[key].shape)} in the "
                    "teacher: both must have the same head"
                )
        if not keys:
            raise ValueError("student and teacher have no output in common to distill")
        return keys

    def preview(self) -> None:
        self.start_epoch = self.end_epoch = -1.0

    def loss_term(
        self,
        task_loss: Tensor,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute hardness · the mean of the distillation losses over the chosen outputs.

        Args:
            task_loss: scalar, for the log.
            student: outputs by name; logits (batch, ..., n).
            teacher: the teacher's outputs for the same inputs.
            attention_mask: (batch, positions), 0 where padded; None: nothing is.

        Returns:
            Scalar, to be added to ``task_share`` · task loss.
        """
        pairs = [(student[key], teacher[key]) for key in self.output_keys(student, teacher)]
        if self.ignore_padding and attention_mask is not None:
            pairs = [tuple(without_padding(logits, attention_mask) for logits in pair) for pair in pairs]
        losses = [distillation_loss(own, target, self.temperature) for own, target in pairs]
        distilled = sum(losses) / len(losses)
        term = self.hardness * distilled
        with torch.no_grad():
            agreed = agreement(*zip(*pairs, strict=True))
        total = self.task_share * task_loss + term
        parts = {"task_loss": task_loss, "distillation_loss": distilled, "total_loss": total}
        for name, value in (parts | {"teacher_agreement": agreed}).items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
        self._count += 1
        return term

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        """Means over the batches since the last call."""
        means = {name: value.item() / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return means
