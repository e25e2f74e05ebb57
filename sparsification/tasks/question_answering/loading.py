"""Loading of a run's data, model and teacher."""

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
)

from sparsification.distillation.teacher import load_teacher, teacher_tokenizer
from sparsification.model_io import input_names, knows_no_words, takes_token_types
from sparsification.saved_weights import check_saved_shapes
from sparsification.tasks.errors import DataError, UsageError
from sparsification.tasks.question_answering.arguments import Flags, ModelArguments
from sparsification.tasks.question_answering.data import load_qa_dataset
from sparsification.tasks.question_answering.data_checks import check_answers, check_ids, check_references
from sparsification.tasks.question_answering.unlabelled import check_labels, load_distill_file

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Models:
    """The student, its teacher, and the tokenizers that make their columns."""

    tokenizer: PreTrainedTokenizerBase  # the student's
    model: PreTrainedModel
    teacher: PreTrainedModel | None
    teacher_inputs: list[str] | None  # columns that the teacher takes
    feature_tokenizer: PreTrainedTokenizerBase  # makes the columns of both models


def load_teacher_beside(flags: Flags, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Models:
    """Load the teacher, if the run distills, and choose the tokenizer that makes features for both models.

    Both tokenizers make the same tokens, see ``load_teacher``; one of them may also make token_type_ids.
    """
    settings = hub_settings(flags.model)
    asked = flags.manager.needs_reference if flags.sparse.one_shot else flags.training.do_train
    name = flags.sparse.distill_teacher if asked else "disable"
    recipe = flags.manager.recipe
    distills = flags.manager.distills or flags.manager.needs_reference
    source = recipe.source if recipe is not None and distills else None
    teacher = load_teacher(name, AutoModelForQuestionAnswering, model, tokenizer, source, **settings)
    if teacher is None:
        return Models(tokenizer, model, None, None, tokenizer)
    own = teacher_tokenizer(name, tokenizer, **settings)
    for_both = max(tokenizer, own, key=lambda either: len(either.model_input_names))
    return Models(tokenizer, model, teacher, input_names(teacher, own), for_both)


def load_data(flags: Flags) -> DatasetDict:
    """Load the splits, and check those that the run needs; the questions of ``--distill_file`` are split "distill".

    Raises:
        DataError: data is missing or wrong.
        UsageError: questions of ``--distill_file`` have no answer, and the recipe uses labels.
    """
    data_args, training_args, cache_dir = flags.data, flags.training, flags.model.cache_dir
    with training_args.main_process_first(desc="loading the data"):
        raw_datasets = load_qa_dataset(
            data_args.dataset_name,
            data_args.dataset_config_name,
            data_args.data_files,
            cache_dir=cache_dir,
            token=flags.model.token,
        )
        if data_args.distill_file is not None:
            raw_datasets["distill"] = load_distill_file(
                data_args.distill_file, training_args.seed, data_args.distill_questions_per_paragraph, cache_dir
            )
            check_labels(flags, raw_datasets["distill"])
    needed = {
        "train": ("--do_train", training_args.do_train),
        "validation": ("--do_eval", training_args.do_eval),
        "test": ("--do_predict", training_args.do_predict),
    }
    if not any(wanted for _, wanted in needed.values()):
        logger.warning(f"Nothing to do: none of {', '.join(flag for flag, _ in needed.values())} is given")
    if "train" not in raw_datasets and "distill" in raw_datasets:
        del needed["train"]
    for split, (flag, wanted) in needed.items():
        if wanted and split not in raw_datasets:
            raise DataError(
                f"{flag} needs {split} data: name it with --{split}_file or a --dataset_name that has it "
                f"(there is {', '.join(raw_datasets) or 'none'})"
            )
        if wanted and len(raw_datasets[split]) == 0:
            raise DataError(f"{flag}: the {split} data has no questions")
    if training_args.do_train and "train" in needed:
        check_answers(limited(raw_datasets["train"], data_args.max_train_samples), data_args.version_2_with_negative)
    if training_args.do_eval:
        questions = limited(raw_datasets["validation"], data_args.max_eval_samples)
        check_ids(questions)
        check_references(questions, data_args.version_2_with_negative, training_args.metric_for_best_model)
    if training_args.do_predict:
        check_ids(limited(raw_datasets["test"], data_args.max_predict_samples))
    return raw_datasets


def limited(examples: Dataset, limit: int | None) -> Dataset:
    """The first ``limit`` questions, or all for None."""
    return examples if limit is None else examples.select(range(min(limit, len(examples))))


def load_model(model_args: ModelArguments) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """Load the tokenizer and the model.

    Raises:
        UsageError: they cannot be loaded, cannot answer questions, or do not fit together.
    """
    shared = hub_settings(model_args) | {"revision": model_args.model_revision}
    name = model_args.model_name_or_path
    if not os.path.isdir(name) and (name.startswith((".", "/", "~")) or name.count("/") > 1):
        raise UsageError(f"--model_name_or_path {name}: no such folder")
    try:
        config = AutoConfig.from_pretrained(model_args.config_name or name, **shared)
        tokenizer = AutoTokenizer.from_pretrained(model_args.tokenizer_name or name, use_fast=True, **shared)
        check_saved_shapes(name, config, AutoModelForQuestionAnswering.from_config)
        model = AutoModelForQuestionAnswering.from_pretrained(name, config=config, **shared)
    # RuntimeError: the weights do not have the sizes of the configuration.
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError, pickle.UnpicklingError) as error:
        raise UsageError(f"--model_name_or_path {name}: {error}") from error
    if knows_no_words(tokenizer):
        raise UsageError(
            f"{model_args.tokenizer_name or name} has no tokenizer: name the one that the model was trained with, with "
            "--tokenizer_name"
        )
    if not tokenizer.is_fast:
        raise UsageError(
            f"{model_args.tokenizer_name or name}: {type(tokenizer).__name__} is not a fast tokenizer, which is needed "
            "for the positions of tokens in the text; use a model that has one"
        )
    embeddings = len(model.get_input_embeddings().weight)
    if len(tokenizer) > embeddings:
        raise UsageError(
            f"the tokenizer of {model_args.tokenizer_name or name} has {len(tokenizer)} tokens, "
            f"the model {name} has embeddings for {embeddings}: they do not fit together"
        )
    if takes_token_types(model) and "token_type_ids" not in tokenizer.model_input_names:
        logger.warning(
            f"{name} takes token_type_ids, but its {type(tokenizer).__name__} makes none, so the model cannot tell "
            "question and context apart. If it was trained with them, save its tokenizer with token_type_ids among its "
            "model_input_names"
        )
    return tokenizer, model


def hub_settings(model_args: ModelArguments) -> dict[str, Any]:
    """Arguments of all downloads from the hub."""
    return {
        "cache_dir": model_args.cache_dir,
        "token": model_args.token,
        "trust_remote_code": model_args.trust_remote_code,
    }
