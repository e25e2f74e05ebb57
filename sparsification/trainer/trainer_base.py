"""Type of the Trainer that the mixins of this package belong to; ``object`` at run time.

A mixin calls the methods of the Trainer class that stands after it, and uses what the other mixins define. The type
checker finds both here. At run time the mixins have no base class, so they can stand before any Trainer class.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch
    from torch.utils.data import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments

    from sparsification.manager import ScheduledModifierManager
    from sparsification.modifiers import TrainingStep

    class SizedDataset(Dataset[dict]):
        """Rows of features that have a length and can be indexed."""

        def __len__(self) -> int: ...

    class FinalArguments(TrainingArguments):
        """Arguments after ``__post_init__``, which replaces None and single strings in these fields."""

        output_dir: str
        report_to: list[str]

    class TrainerBase(Trainer):
        """A Trainer of a Transformers model, with what the mixins use of each other."""

        args: FinalArguments
        model: PreTrainedModel
        optimizer: torch.optim.Optimizer  # from the start of training on
        processing_class: PreTrainedTokenizerBase | None
        train_dataset: SizedDataset | None
        eval_dataset: SizedDataset | dict[str, SizedDataset] | None
        manager: ScheduledModifierManager
        teacher: PreTrainedModel | None
        _student_inputs: frozenset[str]
        _teacher_inputs: frozenset[str]
        _steps_per_epoch: int

        @property
        def current_step(self) -> TrainingStep: ...

        def _for_student(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]: ...

        def _for_teacher(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]: ...

        def _run_teacher(self, teacher: PreTrainedModel, inputs: dict) -> tuple[dict, dict[str, torch.Tensor]]: ...

        def _sample_dataset(self) -> SizedDataset | None: ...

        def _graph_inputs(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]: ...

        def _save_beside_optimizer(self, checkpoint: Path) -> None: ...

else:
    TrainerBase = object


def signature_columns(trainer: TrainerBase) -> list[str]:
    """Return the columns that a Trainer keeps, the list itself; call after ``_set_signature_columns_if_needed``.

    Trainer's annotation of the attribute is None, its value before that call.
    """
    return vars(trainer)["_signature_columns"]
