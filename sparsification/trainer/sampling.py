"""Training data for modifiers: gradients and inputs of random batches, the same ones on every process."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import datasets
import torch

from sparsification.distillation.teacher_cache import SAMPLE_INDEX
from sparsification.trainer.trainer_base import TrainerBase

if TYPE_CHECKING:
    from sparsification.trainer.trainer_base import SizedDataset


class SamplingMixin(TrainerBase):
    """Draws from a Trainer's training data for its ``manager``, as functions of the seed and of a moment."""

    def _sample_gradients(
        self, parameters: Sequence[torch.nn.Parameter], count: int, batch_size: int | None, moment: tuple[int, int]
    ) -> Iterator[Sequence[torch.Tensor]]:
        """Yield gradients of the task loss on ``count`` random training batches, in evaluation mode; see the manager.

        Every process takes the same batches, which depend on the seed and on ``moment``. ``grad`` of the parameters and
        the random numbers of training are not changed.
        """
        model = self.accelerator.unwrap_model(self.model)
        dataset = self._training_rows()
        size = batch_size or self.args.per_device_train_batch_size
        chance = random.Random(f"gradients {self.args.seed} {moment}")
        order = itertools.chain.from_iterable(
            chance.sample(range(len(dataset)), len(dataset)) for _ in itertools.count()
        )
        was_training = model.training
        model.eval()
        for _ in range(count):
            batch = self._batch_for_student([dataset[index] for index in itertools.islice(order, size)])
            with torch.enable_grad():
                # The class's forward, without Accelerate's autocast: small gradients would underflow in 16 bits.
                loss = type(model).forward(model, **batch).loss
            yield torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
        model.train(was_training)

    def _sample_inputs(self, count: int, batch_size: int, moment: tuple[int, int]) -> list[dict[str, torch.Tensor]]:
        """Collate ``count`` random training examples, or all that there are, without labels; see the manager.

        Those of about the same length share a batch: less of it is padding.
        """
        dataset = self._training_rows()
        chance = random.Random(f"inputs {self.args.seed} {moment}")
        chosen = chance.sample(range(len(dataset)), min(count, len(dataset)))
        rows = sorted((dataset[index] for index in chosen), key=self._length_of)
        starts = range(0, len(rows), batch_size)
        batches = [self._batch_for_student(rows[first : first + batch_size]) for first in starts]
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
        return max(len(value) if isinstance(value, list) else torch.as_tensor(value).numel() for value in row.values())

    def _batch_for_student(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = self._prepare_inputs(self.data_collator(rows))
        batch.pop(SAMPLE_INDEX, None)
        return self._for_student(batch)
