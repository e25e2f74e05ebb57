"""Trainer that evaluates and predicts all features in their order, with the outputs of the model's head."""

from collections.abc import Callable

from datasets import Dataset
from torch.utils.data import DataLoader, Sampler, SequentialSampler
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from sparsification.model_outputs import INTERMEDIATE_OUTPUTS


class InOrderTrainer(Trainer):
    """A Trainer whose outputs can be assigned to the records of an evaluation by position."""

    def _get_dataloader(
        self,
        dataset: Dataset,
        description: str,
        batch_size: int,
        sampler_fn: Callable[[Dataset], Sampler] | None = None,
        is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> DataLoader:
        """Load all features of an evaluation in order, whatever the flags for training batches are."""
        given = self.args.dataloader_drop_last, self.args.dataloader_in_order
        if not is_training:
            self.args.dataloader_drop_last, self.args.dataloader_in_order = False, True
        try:
            return super()._get_dataloader(dataset, description, batch_size, sampler_fn, is_training, dataloader_key)
        finally:
            self.args.dataloader_drop_last, self.args.dataloader_in_order = given

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        """Keep the features in order, because outputs are assigned to records by position.

        With ``train_sampling_strategy`` "group_by_length", Trainer would change the order.
        """
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_eval_sampler(eval_dataset)
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Gather no outputs besides those of the head, e.g. the hidden states that BART returns; see ``Trainer``."""
        ignore_keys = list(INTERMEDIATE_OUTPUTS) if ignore_keys is None else ignore_keys
        return super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
