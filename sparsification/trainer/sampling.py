"""Training data for modifiers: gradients and inputs of random batches, the same ones on every process."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import datasets
import torch
from transformers import PreTrainedModel

from sparsification.distillation.teacher_cache import SAMPLE_INDEX
from sparsification.logits import distillation_loss, distributions, drawn_label_loss
from sparsification.samplers import Labels
from sparsification.trainer.trainer_base import TrainerBase

if TYPE_CHECKING:
    from sparsification.trainer.trainer_base import SizedDataset


class SamplingMixin(TrainerBase):
    """Draws from a Trainer's training data for its ``manager``, as functions of the seed and of a moment."""

    def _sample_gradients(
        self,
        parameters: Sequence[torch.nn.Parameter],
        count: int,
        batch_size: int | None,
        moment: tuple[int, int],
        labels: Labels = "data",
    ) -> Iterator[Sequence[torch.Tensor]]:
        """Yield gradients of the loss on ``count`` random training batches, in evaluation mode; see the manager.

        Every process takes the same batches and draws the same labels; both depend on the seed and on ``moment``.
        ``grad`` of the parameters and the random numbers of training are not changed.
        """
        model = self.accelerator.unwrap_model(self.model)
        dataset = self._training_rows()
        size = batch_size or self.args.per_device_train_batch_size
        chance = random.Random(f"gradients {self.args.seed} {moment}")
        order = itertools.chain.from_iterable(
            chance.sample(range(len(dataset)), len(dataset)) for _ in itertools.count()
        )
        draw = random.Random(f"labels {self.args.seed} {moment}")
        generator = torch.Generator().manual_seed(draw.getrandbits(63))
        was_training = model.training
        model.eval()
        for _ in range(count):
            batch = self._collate([dataset[index] for index in itertools.islice(order, size)])
            with torch.enable_grad():
                outputs, loss = self._loss_of(model, batch)
                if labels != "data":
                    loss = self._loss_without_data(outputs, batch, labels, generator)
            yield torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        model.train(was_training)

    def _loss_of(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor]
    ) -> tuple[Mapping[str, torch.Tensor], torch.Tensor]:
        """The model's outputs for a batch, and its loss for the labels of the data."""
        # The class's forward, without Accelerate's autocast: small gradients would underflow in 16 bits.
        outputs = type(model).forward(model, **self._for_student(batch))
        return outputs, outputs.loss

    def _loss_without_data(
        self,
        outputs: Mapping[str, torch.Tensor],
        batch: dict[str, torch.Tensor],
        labels: Labels,
        generator: torch.Generator,
    ) -> torch.Tensor:
        """Loss of a batch for labels that are drawn from the model, or for the teacher's distributions.

        Padding is left out, and so are the tokens whose labels in the data are ignored.

        Args:
            outputs: the model's, with the graph.
            batch: all columns.
            labels: "model" or "teacher".
            generator: draws the labels.
        """
        mask, own = batch.get("attention_mask"), batch.get("labels")
        if mask is not None and own is not None and own.shape == mask.shape:
            mask = mask * own.ne(-100)
        student = distributions(outputs, mask)
        if labels == "model":
            kind = vars(self.model.config).get("problem_type")
            if kind == "multi_label_classification":
                raise ValueError(f"fisher_labels: model draws one class, but problem_type is '{kind}'")
            return drawn_label_loss(student.values(), generator)
        if self.teacher is None:
            raise ValueError("fisher_labels: teacher needs a teacher: give --distill_teacher")
        targets = distributions(self._run_teacher(self.teacher, self._for_teacher(batch))[0], mask)
        temperatures = (modifier.logits_temperature for modifier in self.manager.modifiers)
        temperature = next((value for value in temperatures if value is not None), 1.0)
        losses = [distillation_loss(student[name], targets[name], temperature) for name in student]
        return torch.stack(losses).mean()

    def _sample_inputs(self, count: int, batch_size: int, moment: tuple[int, int]) -> list[dict[str, torch.Tensor]]:
        """Collate ``count`` random training examples, or all that there are, without labels; see the manager.

        Those of about the same length share a batch: less of it is padding.
        """
        dataset = self._training_rows()
        chance = random.Random(f"inputs {self.args.seed} {moment}")
        chosen = chance.sample(range(len(dataset)), min(count, len(dataset)))
        rows = sorted((dataset[index] for index in chosen), key=self._length_of)
        starts = range(0, len(rows), batch_size)
        batches = [self._for_student(self._collate(rows[first : first + batch_size])) for first in starts]
        return [{name: value for name, value in batch.items() if name not in self.label_names} for batch in batches]

    def _training_rows(self) -> SizedDataset:
        dataset = self.train_dataset
        if dataset is None:
            raise ValueError("train_dataset must be given to sample training data, got None")
        if isinstance(dataset, datasets.Dataset):
            dataset = self._remove_unused_columns(dataset, description="training")
        return dataset

    def _length_of(self, row: dict) -> int:
        """The number of positions of an example, however its features are kept: that of its longest one."""
        features = (value for name, value in row.items() if name not in self.label_names)
        return max(len(value) if isinstance(value, list) else torch.as_tensor(value).numel() for value in features)

    def _collate(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = self._prepare_inputs(self.data_collator(rows))
        batch.pop(SAMPLE_INDEX, None)
        return batch
