"""Loss of a Trainer that distills: the teacher's outputs, computed or cached, mixed into the task's loss."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from sparsification.distillation.teacher_cache import SAMPLE_INDEX, TeacherCache, cache_key, fingerprint, settings


class DistillationMixin:
    """Asks a Trainer's ``teacher`` and lets its ``manager`` mix the answers into the loss."""

    _teacher_cache: TeacherCache | None = None

    def _for_student(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A batch without what is there for the teacher alone."""
        others = self._teacher_inputs - self._student_inputs
        return {name: value for name, value in inputs.items() if name not in others}

    def _for_teacher(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What of a batch the teacher takes."""
        return {name: value for name, value in inputs.items() if name in self._teacher_inputs}

    def compute_loss(self, model, inputs, return_outputs: bool = False, num_items_in_batch=None):
        rows, given = inputs.pop(SAMPLE_INDEX, None), inputs
        inputs = self._for_student(given)
        if not model.training or not self.manager.changes_loss_at(
            self.current_step, has_teacher=self.teacher is not None
        ):
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        # What modifiers add is a mean over the batch, so the task's loss must be one where the two are mixed. Where
        # Trainer counts the labels of the whole step, the batch's own number is given to the model in place of that,
        # and the share of the step that this is comes back as a factor.
        own_items = None if num_items_in_batch is None else max(self._num_labels(inputs), 1)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=own_items)
        batches = self.current_gradient_accumulation_steps if self._counts_whole_step(num_items_in_batch) else 1
        if own_items is not None:
            loss = loss * (own_items * batches / num_items_in_batch)
        elif batches > 1:
            loss = loss * batches
        asks = self.teacher is not None and self.manager.distills_at(self.current_step)
        answers = self._teacher_outputs(self._for_teacher(given), rows, outputs) if asks else None
        loss = (
            self.manager.update_loss(loss, outputs, answers, self.current_step, inputs.get("attention_mask")) / batches
        )
        return (loss, outputs) if return_outputs else loss

    def _counts_whole_step(self, num_items_in_batch: torch.Tensor | int | None) -> bool:
        """Whether Trainer takes a loss as it is, rather than dividing it by the number of accumulated batches."""
        if self.loss_is_scaled_for_ga is not None:
            return self.loss_is_scaled_for_ga
        return self.compute_loss_func is not None or (self.model_accepts_loss_kwargs and num_items_in_batch is not None)

    def _num_labels(self, inputs: dict) -> int:
        """How many labels of a batch count, as Trainer counts them for a whole step."""
        if "shift_labels" in inputs:
            labels = inputs["shift_labels"]
        else:
            labels = inputs["labels"][..., 1:] if self._loss_shifts_labels else inputs["labels"]
        return int(labels.ne(-100).sum())

    def _teacher_outputs(self, inputs: dict, rows: torch.Tensor | None, outputs: dict) -> dict[str, torch.Tensor]:
        """The teacher's outputs, kept or computed."""
        # The student's outputs are as wide as the teacher's, which are not known yet.
        tensors = (value for value in outputs.values() if isinstance(value, torch.Tensor))
        width = next((tensor.shape[1] for tensor in tensors if tensor.dim() == 2), None)
        if rows is not None and width is not None:
            kept = self._teacher_cache.get(rows, width)
            if kept is not None:
                return kept
        with torch.no_grad(), self.accelerator.autocast():
            answers = self.teacher(**self.manager.teacher_inputs(inputs))
        if rows is not None:
            self._teacher_cache.put(rows, answers)
        return answers

    def _open_teacher_cache(self, folder: str | Path) -> TeacherCache:
        """Number the features, and find the cache of this teacher for them."""
        self._set_signature_columns_if_needed()
        seen = self.manager.teacher_inputs(self._for_teacher(dict.fromkeys(self.train_dataset.column_names)))
        key = cache_key(
            self.teacher,
            settings(self.teacher.config),
            fingerprint(self.train_dataset, sorted(seen)),
            self.args.bf16,
            self.args.fp16,
            self.args.device.type,
        )
        longest = max(len(ids) for ids in self.train_dataset.with_format("arrow")[:]["input_ids"])
        width = math.ceil(longest / 8) * 8  # some collators pad to a multiple of 8
        rows = range(len(self.train_dataset))
        self.train_dataset = self.train_dataset.add_column(SAMPLE_INDEX, list(rows))
        self._signature_columns.append(SAMPLE_INDEX)
        return TeacherCache(folder, key, len(rows), width)
