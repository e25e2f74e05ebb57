"""Feature data sets of a run, and their padding into batches."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    default_data_collator,
)

from sparsification.model_io import position_limit, tokenizer_limit
from sparsification.tasks.errors import DataError, UsageError
from sparsification.tasks.question_answering.arguments import DataTrainingArguments
from sparsification.tasks.question_answering.features import prepare_train_features, prepare_validation_features
from sparsification.tasks.question_answering.loading import Models, limited
from sparsification.tasks.question_answering.models import check_model

logger = logging.getLogger(__name__)


def build_features(
    raw_datasets: DatasetDict,
    models: Models,
    data_args: DataTrainingArguments,
    training_args: TrainingArguments,
) -> tuple[Dataset | None, Dataset | None, Dataset | None, Dataset | None, Dataset | None]:
    """Make the features of the splits that a run needs.

    Args:
        raw_datasets: the questions.
        models: the student and its teacher, which take the features.
        data_args: sizes of the features, and limits of the questions.
        training_args: which splits the run needs.

    Returns:
        Features to train on, evaluate on and predict for; questions to evaluate on and predict for. None for a split
        that the run does not need.

    Raises:
        UsageError: the model or the teacher cannot take such features.
        DataError: a question leaves no room for its context, or ids or answers are wrong.
    """
    settings = cutting(models, data_args)

    def make(split: str, examples: Dataset, prepare: Callable, **more: Any) -> Dataset:
        with training_args.main_process_first(desc=f"features of the {split} data"):
            return examples.map(
                prepare,
                batched=True,
                num_proc=data_args.preprocessing_num_workers,
                remove_columns=examples.column_names,
                load_from_cache_file=not data_args.overwrite_cache,
                fn_kwargs=settings | more,
                desc=f"Making features of the {split} data",
            )

    train_dataset = eval_dataset = predict_dataset = eval_examples = predict_examples = None
    if training_args.do_train:
        parts: list[Dataset] = []
        for split, examples in training_questions(raw_datasets, settings, data_args, training_args).items():
            features = make(split, examples, prepare_train_features, length_column=length_column(training_args))
            if split == "distill":
                paragraphs, others = len(set(examples["context"])), len(parts[0]) if parts else 0
                logger.info(
                    f"--distill_file {data_args.distill_file}: {len(features)} features of {len(examples)} questions "
                    f"on {paragraphs} paragraphs, beside {others} features of labelled questions"
                )
            parts.append(limited(features, data_args.max_train_samples) if split == "train" else features)
        train_dataset = concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        batch = training_args.train_batch_size * training_args.world_size
        if training_args.dataloader_drop_last and len(train_dataset) < batch:
            raise DataError(
                f"--dataloader_drop_last leaves nothing to train on: {len(train_dataset)} features are no full batch "
                f"of {batch}"
            )
    # The limits below count questions, of which all features are kept: without its last windows, a question would get a
    # wrong answer.
    if training_args.do_eval:
        eval_examples = limited(raw_datasets["validation"], data_args.max_eval_samples)
        eval_dataset = make("validation", eval_examples, prepare_validation_features)
    if training_args.do_predict:
        predict_examples = limited(raw_datasets["test"], data_args.max_predict_samples)
        predict_dataset = make("test", predict_examples, prepare_validation_features)
    return train_dataset, eval_dataset, predict_dataset, eval_examples, predict_examples


def training_questions(
    raw_datasets: DatasetDict,
    settings: Mapping[str, Any],
    data_args: DataTrainingArguments,
    training_args: TrainingArguments,
) -> dict[str, Dataset]:
    """Choose the questions to train on, by split: those with labels, and those of ``--distill_file``.

    A question of ``--distill_file`` that leaves no room for a long context is left out.

    Args:
        raw_datasets: the questions; "train" may be missing if there is "distill".
        settings: from ``cutting``.
        data_args: limit of the questions with labels.
        training_args: order of the processes.

    Raises:
        DataError: no question of ``--distill_file`` leaves room.
    """
    chosen = {}
    if "train" in raw_datasets:
        chosen["train"] = limited(raw_datasets["train"], data_args.max_train_samples)
    if "distill" in raw_datasets:
        tokenizer = settings["tokenizer"]
        special = tokenizer.num_special_tokens_to_add(pair=True)
        most = settings["max_seq_length"] - special - settings["doc_stride"] - 1
        given = raw_datasets["distill"]
        with training_args.main_process_first(desc="questions of --distill_file"):
            chosen["distill"] = given.filter(
                _are_short, input_columns="question", batched=True, fn_kwargs={"tokenizer": tokenizer, "most": most}
            )
        if removed := len(given) - len(chosen["distill"]):
            about = f"--distill_file: {removed} of {len(given)} questions have more than {most} tokens"
            if removed == len(given):
                raise DataError(f"{about}, which --max_seq_length and --doc_stride leave for a question")
            logger.info(f"{about} and are left out")
    return chosen


def _are_short(questions: list[str], tokenizer: PreTrainedTokenizerBase, most: int) -> list[bool]:
    return [len(ids) <= most for ids in tokenizer(questions, add_special_tokens=False)["input_ids"]]


def cutting(models: Models, data_args: DataTrainingArguments) -> dict[str, Any]:
    """Arguments with which features are made from questions and contexts.

    Raises:
        UsageError: the model or the teacher cannot take such features.
    """
    tokenizer, teacher = models.feature_tokenizer, models.teacher
    length = resolve_max_seq_length(tokenizer, models.model, data_args.max_seq_length)
    check_model(models.model, tokenizer, models.model.name_or_path or "", length)
    if teacher is not None:
        limit = position_limit(teacher)
        if limit is not None and limit < length:
            raise UsageError(
                f"the teacher {teacher.name_or_path} has {limit} positions, features have {length} tokens: "
                f"--max_seq_length {limit} fits both"
            )
        check_model(teacher, tokenizer, f"the teacher {teacher.name_or_path}", length)
    return {
        "tokenizer": tokenizer,
        "max_seq_length": length,
        "doc_stride": resolve_doc_stride(tokenizer, data_args, length),
        "pad_to_max_length": pads_to_max_length(tokenizer, data_args),
    }


def length_column(training_args: TrainingArguments) -> str | None:
    """Name of the column of lengths, if batches are made by length."""
    by_length = training_args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
    return training_args.length_column_name if by_length else None


def resolve_max_seq_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, given: int) -> int:
    """The smallest of ``max_seq_length`` and the limits of tokenizer and model."""
    # A tokenizer's limit may exceed the model's positions, which would fail at the first long feature.
    limit = min(n for n in (given, tokenizer_limit(tokenizer), position_limit(model)) if n is not None)
    if given > limit:
        logger.warning(f"--max_seq_length {given} is more than the model's {limit}: using {limit}")
    return limit


def resolve_doc_stride(tokenizer: PreTrainedTokenizerBase, data_args: DataTrainingArguments, length: int) -> int:
    """The given ``doc_stride``; a third of a window if it is the default, and too long for the windows."""
    default = type(data_args).doc_stride
    if data_args.doc_stride == default and default >= length - tokenizer.num_special_tokens_to_add(pair=True):
        logger.warning(f"Windows of {length} tokens cannot share {default}: they share {length // 3} (--doc_stride)")
        return length // 3
    return data_args.doc_stride


def pads_to_max_length(tokenizer: PreTrainedTokenizerBase, data_args: DataTrainingArguments) -> bool:
    """Whether features are padded when they are made.

    Padding on the left moves every token, so padding by batch would separate logits from their positions.
    """
    return data_args.pad_to_max_length or tokenizer.padding_side == "left"


def build_collator(
    tokenizer: PreTrainedTokenizerBase, data_args: DataTrainingArguments, training_args: TrainingArguments
) -> Callable:
    """Make a collator that pads features, unless they are padded already."""
    if pads_to_max_length(tokenizer, data_args):
        return default_data_collator
    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if training_args.fp16 else None)
