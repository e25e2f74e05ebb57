"""Loss of a Trainer that distills: the teacher's outputs, computed or cached, are mixed into the task's loss."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path

import datasets
import pyarrow
import torch
from transformers import PreTrainedModel

from sparsification.distillation.hidden_state_cache import HiddenStateCache, count_tokens, recorded_outputs
from sparsification.distillation.teacher_cache import SAMPLE_INDEX, TeacherCache, cache_key, fingerprint, settings
from sparsification.trainer.trainer_base import TrainerBase, signature_columns

logger = logging.getLogger(__name__)


class DistillationMixin(TrainerBase):
    """Computes the outputs of a Trainer's ``teacher``, which its ``manager`` mixes into the loss."""

    _teacher_cache: TeacherCache | None = None
    _hidden_state_cache: HiddenStateCache | None = None  # beside it, if the recipe caches layers

    def _for_student(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Select the columns of a batch that the student takes, labels included."""
        others = self._teacher_inputs - self._student_inputs
        return {name: value for name, value in inputs.items() if name not in others}

    def _for_teacher(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Select the columns of a batch that the teacher takes."""
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
        # What modifiers add is a mean over the batch, so the task loss must be a mean over the batch when the two are
        # mixed. Where Trainer divides by the labels of the whole step, the model gets the batch's own number of labels
        # instead, and the loss is scaled by the batch's share of the step's labels.
        own_items = None if num_items_in_batch is None else max(self._num_labels(inputs), 1)
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, num_items_in_batch=own_items)
        batches = self.current_gradient_accumulation_steps if self._counts_whole_step(num_items_in_batch) else 1
        if own_items is not None:
            loss = loss * (own_items * batches / num_items_in_batch)
        elif batches > 1:
            loss = loss * batches
        targets, mask = None, inputs.get("attention_mask")
        if self.teacher is not None and self.manager.distills_at(self.current_step):
            targets = self._teacher_outputs(self.teacher, self._for_teacher(given), rows, outputs, mask)
        loss = self.manager.update_loss(loss, outputs, targets, self.current_step, mask)
        return (loss / batches, outputs) if return_outputs else loss / batches

    def _counts_whole_step(self, num_items_in_batch: torch.Tensor | int | None) -> bool:
        """Whether Trainer does not divide the loss by the number of accumulated batches."""
        if self.loss_is_scaled_for_ga is not None:
            return self.loss_is_scaled_for_ga
        return self.compute_loss_func is not None or (self.model_accepts_loss_kwargs and num_items_in_batch is not None)

    def _num_labels(self, inputs: dict) -> int:
        """Number of labels in a batch that are not ignored, counted as Trainer counts those of a whole step."""
        if "shift_labels" in inputs:
            labels = inputs["shift_labels"]
        else:
            labels = inputs["labels"][..., 1:] if self._loss_shifts_labels else inputs["labels"]
        return int(labels.ne(-100).sum())

    def _teacher_outputs(
        self,
        teacher: PreTrainedModel,
        inputs: dict,
        rows: torch.Tensor | None,
        outputs: dict,
        mask: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """The teacher's outputs for a batch, from the cache or computed, with those of its layers that are cached.

        Args:
            teacher: the teacher.
            inputs: the teacher's columns.
            rows: (batch,) numbers of the features; None without a cache.
            outputs: the student's, which are as wide as the teacher's.
            mask: (batch, positions), 0 where padded; None: no padding.
        """
        tensors = (value for value in outputs.values() if isinstance(value, torch.Tensor))
        width = next((tensor.shape[1] for tensor in tensors if tensor.dim() >= 2), None)
        cache, hidden = self._teacher_cache, self._hidden_state_cache
        if cache is not None and rows is not None and width is not None:
            kept = cache.get(rows, width, mask)
            states = {} if hidden is None or kept is None else hidden.get(rows, mask)
            if kept is not None and states is not None:
                return _stack_labels(kept) | states
        computed, layers = self._run_teacher(teacher, inputs)
        if cache is not None and rows is not None:
            cache.put(rows, _split_labels(computed, teacher.config.num_labels), mask)
            if hidden is not None:
                return {**computed, **hidden.put(rows, mask, layers)}
        return computed

    def _open_teacher_cache(self, folder: str | Path, teacher: PreTrainedModel, dataset: datasets.Dataset) -> None:
        """Number the training features, and open this teacher's cache of their logits, and of hidden states if needed.

        Args:
            folder: of all caches.
            teacher: the teacher.
            dataset: the training features.
        """
        layers = self.manager.cached_layers
        if layers is None:
            logger.warning(
                "The recipe compares layers with the teacher's: the teacher runs in every step; the modifier's "
                "cache_hidden_states caches their outputs beside its logits."
            )
            return
        if "input_ids" not in dataset.column_names:
            logger.warning("The training data have no input_ids: the teacher's logits are not cached.")
            return
        ids = dataset.with_format("arrow")[:]["input_ids"]
        if layers and pyarrow.types.is_nested(ids.type.value_type):
            HiddenStateCache.refuse("a row of the training data has several texts")
            return
        self._set_signature_columns_if_needed()
        columns = dict.fromkeys(dataset.column_names, torch.empty(0))  # chosen by name
        seen = self.manager.teacher_inputs(self._for_teacher(columns))
        key = cache_key(
            teacher,
            settings(teacher.config),
            fingerprint(dataset, sorted(seen)),
            self.args.bf16,
            self.args.fp16,
            self.args.device.type,
            by_token := not self.manager.compares_padding,
            *sorted(layers),
        )
        lengths = set(map(len, ids))
        width = math.ceil(max(lengths) / 8) * 8  # some collators pad to a multiple of 8
        cache = TeacherCache(folder, key, len(dataset), width, by_token, one_width=len(lengths) == 1)
        if layers:
            row = {name: torch.as_tensor(dataset[0][name])[None].to(self.args.device) for name in seen}
            computed, features = self._run_teacher(teacher, row)
            logits = _split_labels(computed, teacher.config.num_labels)
            hidden = HiddenStateCache(cache.folder / "hidden_states", count_tokens(dataset))
            with self.args.main_process_first(desc="creation of the teacher's cache"):
                is_open = cache.accepts(logits) and hidden.open(features) and cache.open(logits)
            if not is_open:
                return
            self._hidden_state_cache = hidden
        self._teacher_cache = cache
        self.train_dataset = dataset.add_column(SAMPLE_INDEX, list(range(len(dataset))))
        signature_columns(self).append(SAMPLE_INDEX)

    def _run_teacher(self, teacher: PreTrainedModel, inputs: dict) -> tuple[dict, dict[str, torch.Tensor]]:
        """Compute the teacher's outputs, and those of its layers to cache, by name."""
        with torch.no_grad(), self.accelerator.autocast(), recorded_outputs(self.manager.cached_layers or {}) as layers:
            return teacher(**self.manager.teacher_inputs(inputs)), layers


def _split_labels(outputs: Mapping[str, object], num_labels: int | None) -> dict[str, torch.Tensor]:
    """Split logits of labels at each token, which the cache cannot hold, into rows that it can hold.

    Args:
        outputs: by name; those of shape (batch, tokens, num_labels) are split.
        num_labels: number of the model's labels.

    Returns:
        Outputs by name; (batch, tokens) under ``<name>.<label>`` for each label, other tensors as they are.
    """
    split: dict[str, torch.Tensor] = {}
    for name, value in outputs.items():
        if isinstance(value, torch.Tensor) and value.dim() == 3 and value.shape[2] == num_labels:
            split |= {f"{name}.{label}": value[:, :, label] for label in range(num_labels)}
        elif isinstance(value, torch.Tensor):
            split[name] = value
    return split


def _stack_labels(rows: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undo ``_split_labels``."""
    stacked = {name: value for name, value in rows.items() if "." not in name}
    for name in {name.partition(".")[0] for name in rows.keys() - stacked.keys()}:
        count = sum(other.startswith(f"{name}.") for other in rows)
        stacked[name] = torch.stack([rows[f"{name}.{label}"] for label in range(count)], dim=2)
    return stacked
