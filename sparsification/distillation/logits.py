"""Distillation of logits: the modifier, and the agreement of student and teacher."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparsification.base import TrainingStep
from sparsification.distillation.base import DistillationBase
from sparsification.logits import distillation_loss, head_outputs, without_padding


def agreement(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """Fraction of the examples for which student and teacher have their largest logits at the same indices.

    Args:
        student: logits (batch, ..., n), one tensor for each output, e.g. start and end logits.
        teacher: logits of the same shapes.

    Returns:
        Scalar in [0, 1].
    """
    same = [
        (own.argmax(-1) == other.argmax(-1)).reshape(len(own), -1).all(1)
        for own, other in zip(student, teacher, strict=True)
    ]
    return torch.stack(same).all(0).float().mean()


@dataclass(kw_only=True)
class DistillationModifier(DistillationBase):
    """Train on the teacher's logits beside the labels: loss = (1 - hardness) · task + hardness · distillation.

    Hinton et al. 2015, arXiv:1503.02531. As in SparseML, padded positions are part of the loss unless
    ``ignore_padding`` is set. A single logit (regression, a reranker) is compared by its squared difference. If
    several distillation modifiers are active, each adds its own term, and the task loss is multiplied by 1 - hardness
    of each.
    """

    hardness: float = 0.5  # weight of the distillation loss, in [0, 1]
    temperature: float = 2.0  # divides the logits of both models
    distill_output_keys: list[str | int] | None = None  # None: every floating-point output that both models have
    teacher_input_keys: list[str] | None = None
    ignore_padding: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.hardness <= 1:
            raise ValueError(f"hardness must be in [0, 1], got {self.hardness:g}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be greater than 0, got {self.temperature:g}")
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    @property
    def needs_teacher(self) -> bool:
        return self.hardness > 0

    @property
    def logits_temperature(self) -> float:
        return self.temperature

    @property
    def task_share(self) -> float:
        return 1 - self.hardness

    def warnings(self, length: float | None) -> Iterator[str]:
        if not self.needs_teacher:
            yield "hardness is 0: the distillation loss has no effect, and the teacher does not run for it"

    def output_keys(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor]) -> list[str]:
        """Names of the outputs to distill.

        Args:
            student: outputs by name.
            teacher: outputs by name.

        Raises:
            ValueError: an output that the recipe names is missing, or its shapes differ.
        """
        names = [name for name, value in student.items() if isinstance(value, Tensor) and name != "loss"]
        if self.distill_output_keys is None:
            keys = [name for name in head_outputs(student) if name in teacher]
        else:
            keys = [
                names[key] if isinstance(key, int) and key < len(names) else str(key)
                for key in self.distill_output_keys
            ]
        for key in keys:
            for who, outputs in (("student", student), ("teacher", teacher)):
                if key not in outputs:
                    present = ", ".join(name for name in outputs if name != "loss")
                    raise ValueError(f"the {who} has no output '{key}' to distill, only {present}")
            if student[key].shape != teacher[key].shape:
                raise ValueError(
                    f"output '{key}' must have the same shape in both models, got {tuple(student[key].shape)} from the "
                    f"student and {tuple(teacher[key].shape)} from the teacher"
                )
        if not keys:
            raise ValueError("student and teacher have no floating-point output in common to distill")
        return keys

    def loss_term(
        self,
        task_loss: Tensor,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute hardness · the mean of the distillation losses over the chosen outputs.

        Args:
            task_loss: scalar, logged only.
            student: outputs by name; logits (batch, ..., n).
            teacher: the teacher's outputs for the same inputs.
            attention_mask: (batch, positions), 0 where padded; None: no padding.

        Returns:
            Scalar, to be added to ``task_share`` · task loss.
        """
        pairs = [(student[key], teacher[key]) for key in self.output_keys(student, teacher)]
        if self.ignore_padding and attention_mask is not None:
            pairs = [
                (without_padding(own, attention_mask), without_padding(target, attention_mask)) for own, target in pairs
            ]
        losses = [distillation_loss(own, target, self.temperature) for own, target in pairs]
        distilled = sum(losses[1:], start=losses[0]) / len(losses)
        term = self.hardness * distilled
        total = self.task_share * task_loss + term
        parts = {"task_loss": task_loss, "distillation_loss": distilled, "total_loss": total}
        if any(own.shape[-1] > 1 for own, _ in pairs):  # single logits have no largest one
            with torch.no_grad():
                parts["teacher_agreement"] = agreement(*zip(*pairs, strict=True))
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach().float()
        self._count += 1
        return term

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        """Means over the batches since the previous call."""
        means = {name: value.item() / self._count for name, value in self._sums.items()}
        self._sums, self._count = {}, 0
        return means
