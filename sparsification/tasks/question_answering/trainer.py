"""Trainer that evaluates and predicts answers.

``Trainer.evaluate`` and ``Trainer.predict`` both run ``evaluation_loop``. The metrics of question answering need all
features of a question and its context, so here the loop runs without metrics; then ``post_process_function`` computes
answers from its logits, and ``compute_metrics`` scores them. Timing, logging and callbacks are Trainer's.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from sparsification.tasks.in_order import InOrderTrainer


class ScoredRecords(NamedTuple):
    """What ``compute_metrics`` scores: one record for each question, under the names of EvalPrediction's fields."""

    predictions: Sequence[Mapping[str, Any]]  # {"id", "prediction_text"}, of SQuAD 2.0 "no_answer_probability" too
    label_ids: Sequence[Mapping[str, Any]]  # {"id", "answers"}


PostProcess = Callable[[Dataset, Dataset, tuple[np.ndarray, ...], str], ScoredRecords]


class QuestionAnsweringTrainer(InOrderTrainer):
    """A Trainer whose evaluation and prediction go through answer spans.

    Args:
        eval_examples: the questions of ``eval_dataset``'s features.
        post_process_function: ``(examples, features, logits, stage) -> ScoredRecords``, which ``compute_metrics``
            gets; ``stage`` is the metrics' prefix in ``evaluate`` and "predict" in ``predict``. An EvalPrediction with
            these fields does as well. Without this function, this class behaves as Trainer.
        *args: see Trainer.
        **kwargs: see Trainer.
    """

    def __init__(
        self,
        *args: Any,
        eval_examples: Dataset | None = None,
        post_process_function: PostProcess | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.eval_examples = eval_examples
        self.post_process_function = post_process_function
        # (examples, features, stage) of the logits of evaluation_loop; set during one call.
        self._answering: tuple[Dataset, Dataset, str] | None = None

    def evaluate(  # type: ignore[override]  # the questions come second, as in Transformers' example
        self,
        eval_dataset: Dataset | None = None,
        eval_examples: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Answer the questions of the evaluation set and score the answers.

        Args:
            eval_dataset: features; None: those given to the constructor.
            eval_examples: the questions of these features; None: those given to the constructor.
            ignore_keys: outputs of the model that are not logits.
            metric_key_prefix: prefix of the metrics' names.

        Returns:
            The metrics, including those of speed.
        """
        features = self.eval_dataset if eval_dataset is None else eval_dataset
        examples = self.eval_examples if eval_examples is None else eval_examples
        self._answering = None if examples is None else (examples, features, metric_key_prefix)
        try:
            return super().evaluate(features, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix)
        finally:
            self._answering = None

    def predict(  # type: ignore[override]  # the questions come second, as in Transformers' example
        self,
        predict_dataset: Dataset,
        predict_examples: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "test",
    ) -> PredictionOutput:
        """Answer the questions of another set.

        Args:
            predict_dataset: features.
            predict_examples: the questions of these features; None: return logits, as Trainer does.
            ignore_keys: outputs of the model that are not logits.
            metric_key_prefix: prefix of the metrics' names.

        Returns:
            The answers as ``predictions``, the references as ``label_ids``, and the metrics.
        """
        self._answering = None if predict_examples is None else (predict_examples, predict_dataset, "predict")
        try:
            return super().predict(predict_dataset, ignore_keys=ignore_keys, metric_key_prefix=metric_key_prefix)
        finally:
            self._answering = None

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Run the loop without metrics, compute answers from its logits, and score them.

        The arguments are Trainer's.
        """
        if self._answering is None or self.post_process_function is None:
            return super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        compute_metrics: Any = self.compute_metrics  # scores records here; Trainer's annotation has an EvalPrediction
        self.compute_metrics = None
        # Keep batches separate: Trainer would copy all logits so far with every batch, and hold both copies.
        concatenates, self.args.eval_do_concat_batches = self.args.eval_do_concat_batches, False
        try:
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        finally:
            self.compute_metrics = compute_metrics
            self.args.eval_do_concat_batches = concatenates
        if output.predictions is None:
            return output  # prediction_loss_only

        # On every process, because each needs the metrics to choose the best checkpoint.
        batches: Any = output.predictions  # a list of batches; Trainer's annotation has them concatenated
        examples, features, stage = self._answering
        answers = self.post_process_function(examples, features, join_batches(batches), stage)
        metrics = dict(output.metrics or {})
        for name, value in (compute_metrics(answers) if compute_metrics is not None else {}).items():
            metrics[name if name.startswith(f"{metric_key_prefix}_") else f"{metric_key_prefix}_{name}"] = value
        records: dict[str, Any] = {"predictions": answers.predictions, "label_ids": answers.label_ids}  # for arrays
        return output._replace(**records, metrics=metrics)


def join_batches(batches: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """Concatenate the outputs of all batches, and free each batch once it is copied.

    Args:
        batches: outputs of each batch, [batch, tokens of the batch] each; the list is empty afterwards.

    Returns:
        The outputs, [all rows, tokens of the longest batch] each, padded with -100.

    Raises:
        ValueError: the model's outputs are not start logits and end logits.
    """
    if not isinstance(batches[0], tuple) or any(not isinstance(output, np.ndarray) for output in batches[0]):
        raise ValueError("expected start logits and end logits of the model, one array each")
    row = sum(len(batch[0]) for batch in batches)
    width = max(batch[0].shape[1] for batch in batches)
    # np.empty reserves memory only when it is written to, so each batch is in memory once.
    joined = tuple(np.empty((row, width), output.dtype) for output in batches[0])
    while batches:
        batch = batches.pop()  # from the end, which does not move the others
        rows = slice(row - len(batch[0]), row)
        for whole, part in zip(joined, batch, strict=True):
            whole[rows, : part.shape[1]] = part
            whole[rows, part.shape[1] :] = -100
        row = rows.start
    return joined
