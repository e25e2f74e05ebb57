"""The data, the model and its teacher of a run."""

import dataclasses
import logging
import os
import pickle
from typing import Any

from datasets import Dataset, DatasetDict
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
)

from sparsification.distillation.teacher import load_teacher, teacher_tokenizer
from sparsification.model_io import input_names, knows_no_words, takes_token_types
from sparsification.tasks.errors import DataError, UsageError
from sparsification.tasks.question_answering.arguments import DataTrainingArguments, Flags, ModelArguments
from sparsification.tasks.question_answering.data import load_qa_dataset
from sparsification.tasks.question_answering.data_checks import check_answers, check_ids, check_references

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Models:
    """The student, its teacher if there is one, and what makes the columns that they take."""

    tokenizer: PreTrainedTokenizerBase  # the student's
    model: PreTrainedModel
    teacher: PreTrainedModel | None
    teacher_inputs: list[str] | None  # names of the columns that the teacher takes
    feature_tokenizer: PreTrainedTokenizerBase  # makes the columns of both


def load_teacher_beside(flags: Flags, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Models:
    """Load the teacher, where there is anything to be learnt, and choose the tokenizer that makes features for both.

    Both make the same tokens, see ``load_teacher``; one of them may also say which text a token is of.
    """
    settings = hub_settings(flags.model)
    name = flags.sparse.distill_teacher if flags.training.do_train and not flags.sparse.one_shot else "disable"
    recipe = flags.manager.recipe.source if flags.manager.distills else None
    teacher = load_teacher(name, AutoModelForQuestionAnswering, model, tokenizer, recipe, **settings)
    if teacher is None:
        return Models(tokenizer, model, None, None, tokenizer)
    own = teacher_tokenizer(name, tokenizer, **settings)
    for_both = max(tokenizer, own, key=lambda either: len(either.model_input_names))
    return Models(tokenizer, model, teacher, input_names(teacher, own), for_both)


def load_data(
    model_args: ModelArguments, data_args: DataTrainingArguments, training_args: TrainingArguments
) -> DatasetDict:
    """Load the splits, and check that those that are asked for are there.

    Raises:
        DataError: data that is missing or wrong.
    """
    with training_args.main_process_first(desc="loading the data"):
        raw_datasets = load_qa_dataset(
            data_args.dataset_name,
            data_args.dataset_config_name,
            data_args.data_files,
            cache_dir=model_args.cache_dir,
            token=model_args.token,
        )
    needed = {
        "train": ("--do_train", training_args.do_train),
        "validation": ("--do_eval", training_args.do_eval),
        "test": ("--do_predict", training_args.do_predict),
    }
    if not any(wanted for _, wanted in needed.values()):
        logger.warning(f"None of {', '.join(flag for flag, _ in needed.values())} is given")
    for split, (flag, wanted) in needed.items():
        if wanted and split not in raw_datasets:
            raise DataError(
                f"{flag} needs {split} data: name it with --{split}_file or a --dataset_name that has it "
                f"(there is {', '.join(raw_datasets) or 'none'})"
            )
        if wanted and len(raw_datasets[split]) == 0:
            raise DataError(f"{flag}: the {split} data holds no question")
    if training_args.do_train:
        check_answers(limited(raw_datasets["train"], data_args.max_train_samples), data_args.version_2_with_negative)
    if training_args.do_eval:
        questions = limited(raw_datasets["validation"], data_args.max_eval_samples)
        check_ids(questions)
        check_references(questions, data_args.version_2_with_negative, training_args.metric_for_best_model)
    if training_args.do_predict:
        check_ids(limited(raw_datasets["test"], data_args.max_predict_samples))
    return raw_datasets


def limited(examples: Dataset, limit: int | None) -> Dataset:
    """The first questions."""
    return examples if limit is None else examples.select(range(min(limit, len(examples))))


def load_model(model_args: ModelArguments) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load the tokenizer and the model.

    Raises:
        UsageError: they are not there, cannot answer questions, or do not fit each other.
    """
    shared = hub_settings(model_args) | {"revision": model_args.model_revision}
    name = model_args.model_name_or_path
    if not os.path.isdir(name) and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UsageError(f"--model_name_or_path {name}: no such folder")
    try:
        config = AutoConfig.from_pretrained(model_args.config_name or name, **shared)
        tokenizer = AutoTokenizer.from_pretrained(model_args.tokenizer_name or name, use_fast=True, **shared)
        model = AutoModelForQuestionAnswering.from_pretrained(name, config=config, **shared)
    # RuntimeError: the weights are of other sizes than the configuration says.
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise UsageError(f"--model_name_or_path {name}: {error}") from error
    if knows_no_words(tokenizer):
        raise UsageError(
            f"{model_args.tokenizer_name or name} has no tokenizer: name the one that the model was trained with by "
            "--tokenizer_name"
        )
    if not tokenizer.is_fast:
        raise UsageError(
            f"{model_args.tokenizer_name or name}: {type(tokenizer).__name__} is no fast tokenizer, so it cannot say "
            "where in the text its tokens stand; take a model that has a fast one"
        )
    embeddings = len(model.get_input_embeddings().weight)
    if len(tokenizer) > embeddings:
        raise UsageError(
            f"the tokenizer of {model_args.tokenizer_name or name} has {len(tokenizer)} tokens, "
            f"the model {name} embeddings for {embeddings}: they do not belong together"
        )
    if takes_token_types(model) and "token_type_ids" not in tokenizer.model_input_names:
        logger.warning(
            f"{name} takes token_type_ids, and its {type(tokenizer).__name__} makes none: question and context are one "
            "text to it. If it was trained with them, save its tokenizer with model_input_names that have them"
        )
    return tokenizer, model


def hub_settings(model_args: ModelArguments) -> dict[str, Any]:
    """What every download from the hub wants to know."""
    return {
        "cache_dir": model_args.cache_dir,
        "token": model_args.token,
        "trust_remote_code": model_args.trust_remote_code,
    }
