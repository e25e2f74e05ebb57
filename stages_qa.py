"""Which steps does a run of the script consist of? Its data, its model, its features, training, and what is written."""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import transformers
from datasets import Dataset, DatasetDict
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    default_data_collator,
)

from arguments_qa import Arguments, DataTrainingArguments, ModelArguments, UsageError
from data_qa import DataError, check_answers, check_ids, check_references, has_answer_text, load_qa_dataset
from flag_checks_qa import Flags
from models_qa import check_model
from sparsification.model_io import input_names, knows_no_words, position_limit, takes_token_types, tokenizer_limit
from trainer_qa import QuestionAnsweringTrainer
from utils_qa import (
    postprocess_qa_predictions,
    prepare_train_features,
    prepare_validation_features,
    squad_metrics,
    squad_v2_metrics,
)

# isort: split
# [sparsification]
from sparse_trainer import SPARSE_FILE, SparseTrainerMixin
from sparsification.arguments import SparsificationArguments
from sparsification.export import ExportReport, refuse_unrecordable
from sparsification.report.tables import plain, result_table
from sparsification.report.terminal import is_watched
from sparsification.run_lock import RunLock, locked
from sparsification.saving import TRAINED, checkpoints, flaw_of, is_leftover
from sparsification.teacher import load_teacher, teacher_tokenizer


class SparseQuestionAnsweringTrainer(SparseTrainerMixin, QuestionAnsweringTrainer):
    """Trains by a recipe, evaluates by answers."""


@contextlib.contextmanager
def only_run_in(arguments: Arguments) -> Iterator[RunLock | None]:
    """Hold the output folder, so that no second run replaces files of this one.

    Args:
        arguments: what ``parse_arguments`` gave.

    Yields:
        The lock; None on processes that save nothing: their first one has it.

    Raises:
        UsageError: there is a file of the folder's name.
        RunLockError: another run has the folder.
    """
    *parts, training_args, manager = arguments
    if not training_args.should_save:
        yield None
        return
    output_dir = Path(training_args.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"--output_dir {output_dir}: there is a file of that name")
    recipe = manager.recipe.to_yaml() if manager.recipe is not None else None
    values = [*(dataclasses.asdict(part) for part in parts), training_args.to_dict(), recipe]
    with locked(output_dir, hashlib.sha256(json.dumps(values, default=str).encode()).hexdigest()) as lock:
        yield lock


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
    teacher = load_teacher(name, AutoModelForQuestionAnswering, model, tokenizer, flags.manager, **settings)
    if teacher is None:
        return Models(tokenizer, model, None, None, tokenizer)
    own = teacher_tokenizer(name, tokenizer, **settings)
    for_both = max(tokenizer, own, key=lambda either: len(either.model_input_names))
    return Models(tokenizer, model, teacher, input_names(teacher, own), for_both)


def make_trainer(
    flags: Flags,
    models: Models,
    train_dataset: Dataset | None,
    eval_dataset: Dataset | None,
    eval_examples: Dataset | None,
    teacher_cache: str | None,
) -> SparseQuestionAnsweringTrainer:
    """Put the parts of a run together."""
    return SparseQuestionAnsweringTrainer(
        manager=flags.manager,
        teacher=models.teacher,
        teacher_inputs=models.teacher_inputs,
        teacher_cache=teacher_cache,
        best_model_after_epoch=flags.sparse.best_model_after_epoch,
        model=models.model,
        args=flags.training,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        eval_examples=eval_examples,
        processing_class=models.tokenizer,
        data_collator=pick_collator(models.tokenizer, flags.data, flags.training),
        post_process_function=make_post_process_function(flags.data, flags.training),
        compute_metrics=make_compute_metrics(flags.data),
    )


def check_export(model: PreTrainedModel, sparse_args: SparsificationArguments) -> None:
    """Refuse a model that could not be exported at the end, where it is to be."""
    if sparse_args.onnx_export_path is not None:
        refuse_unrecordable(model)


def pick_teacher_cache(model_args: ModelArguments, sparse_args: SparsificationArguments) -> str | None:
    """Give the folder in which the teacher's logits are kept, None where they are not to be."""
    if sparse_args.teacher_cache == "off":
        return None
    return sparse_args.teacher_cache or model_args.cache_dir or str(datasets.config.HF_DATASETS_CACHE)


def evaluate_exported(
    trainer: SparseQuestionAnsweringTrainer,
    exported: ExportReport | None,
    sparse_args: SparsificationArguments,
    data_args: DataTrainingArguments,
) -> dict[str, float]:
    """Evaluate the ONNX files in ONNX Runtime and write eval_onnx_results.json and eval_onnx_sparse_results.json."""
    folder = Path(sparse_args.onnx_export_path)
    metrics = trainer.evaluate_onnx(folder)
    if exported is not None:  # on the process that has exported it
        metrics["eval_onnx_max_difference"] = exported.max_difference
        metrics["eval_onnx_mean_difference"] = exported.mean_difference
    limit = data_args.max_eval_samples
    metrics = report(trainer, "eval_onnx", metrics, limit, trainer.eval_dataset)
    if (folder / SPARSE_FILE).is_file():
        sparse = trainer.evaluate_onnx(folder, SPARSE_FILE, "eval_onnx_sparse")
        metrics |= report(trainer, "eval_onnx_sparse", sparse, limit, trainer.eval_dataset)
    return metrics


def evaluate_teacher(
    trainer: SparseQuestionAnsweringTrainer, data_args: DataTrainingArguments, student: dict[str, float]
) -> dict[str, float]:
    """Evaluate the teacher once, write eval_teacher_results.json, and warn where it seems to know nothing."""
    metrics = trainer.evaluate_teacher()
    warn_of_weak_teacher(student, metrics)
    return report(trainer, "eval_teacher", metrics, data_args.max_eval_samples, trainer.eval_dataset)


# F1 of an untrained method, the sliding window of Rajpurkar et al. 2016 (arXiv:1606.05250, table 5); guessing has 4.
UNTRAINED_F1 = 20.0
# A good student may be some points ahead of its teacher, not by half of the teacher's score.
FAR_BELOW = 2 / 3


def warn_of_weak_teacher(student: dict[str, float], teacher: dict[str, float]) -> None:
    """Say where a teacher seems to know nothing: it scores as an untrained method does, or far below its student.

    In SQuAD 2.0 "no answer" alone has an F1 of 50, so there the questions that have one count.
    """
    name = "HasAns_f1" if "eval_teacher_HasAns_f1" in teacher else "f1"
    if f"eval_teacher_{name}" not in teacher:
        return
    label = "F1 on questions with an answer" if name == "HasAns_f1" else "F1"
    own, taught = teacher[f"eval_teacher_{name}"], student.get(f"eval_{name}", 0.0)
    if own < UNTRAINED_F1 or own < FAR_BELOW * taught:
        below = f", that of its student {taught:.2f}" if own < taught else ", hardly more than guessing gives"
        logger.warning(
            f"The teacher's {label} is {own:.2f}{below}: is it trained for this task, and is it the one that "
            "--distill_teacher should name?"
        )


def write_report(
    trainer: SparseQuestionAnsweringTrainer,
    argv: list[str],
    model_args: ModelArguments,
    data_args: DataTrainingArguments,
    sparse_args: SparsificationArguments,
    metrics: dict[str, float],
) -> None:
    """Write what came of a recipe into the output folder, and show it in one table."""
    teacher = model_args.model_name_or_path if sparse_args.distill_teacher == "self" else sparse_args.distill_teacher
    exact = "exact" if data_args.version_2_with_negative else "exact_match"
    trainer.write_report(
        ["python", "run_qa.py", *argv], {exact: "EM", "f1": "F1"}, metrics, teacher, sparse_args.onnx_export_path
    )
    if trainer.facts is not None:
        print(f"\n{plain(result_table(trainer.facts))}\n\nThe report is in {trainer.args.output_dir}/report.html")


# [/sparsification]

logger = logging.getLogger(__name__)


def set_up_logging(training_args: TrainingArguments) -> None:
    """Log to standard output, on the level that the arguments name (info where they do not)."""
    logging.basicConfig(
        format="%(asctime)s - %(levelname)s - %(name)s - %(message)s",
        datefmt="%m/%d/%Y %H:%M:%S",
        handlers=[logging.StreamHandler(sys.stdout)],
    )
    if training_args.should_log:
        transformers.utils.logging.set_verbosity_info()  # what the level "passive" then means
    level = training_args.get_process_log_level()
    logger.setLevel(level)
    datasets.utils.logging.set_verbosity(level)
    transformers.utils.logging.set_verbosity(level)
    transformers.utils.logging.enable_default_handler()
    transformers.utils.logging.enable_explicit_format()
    if not (training_args.should_log and is_watched()):
        datasets.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()
    logger.log(
        logging.WARNING if training_args.should_log else logging.INFO,
        f"Process {training_args.process_index} of {training_args.world_size} on {training_args.device}, "
        f"{training_args.n_gpu} GPUs, fp16 {training_args.fp16}, bf16 {training_args.bf16}",
    )
    logger.info(f"Arguments: {training_args}")


def find_checkpoint(
    data_args: DataTrainingArguments, training_args: TrainingArguments, was_interrupted: bool = False
) -> str | None:
    """Find the checkpoint that training goes on from.

    Args:
        data_args: whether to overwrite what is there.
        training_args: where to look.
        was_interrupted: see ``refuse_used_folder``.

    Raises:
        UsageError: there is none where one was named, or the output folder holds other things.
    """
    if not training_args.do_train:
        return None
    output_dir = Path(training_args.output_dir)
    if output_dir.exists() and not output_dir.is_dir():
        raise UsageError(f"--output_dir {output_dir}: there is a file of that name")
    named = training_args.resume_from_checkpoint
    found = last_complete_checkpoint(output_dir)
    if str(named).lower() == "false":
        named = None
    if str(named).lower() == "true":
        if found is None:
            raise UsageError(f"--resume_from_checkpoint {named}: no complete checkpoint in {output_dir}")
        return found
    if named is not None:
        if flaw := flaw_of(Path(named)):
            raise UsageError(f"--resume_from_checkpoint {named}: {flaw}")
        return named
    if data_args.overwrite_output_dir:
        return None
    if found is not None:
        logger.info(
            f"Going on from {found}. To train from the start instead, name another --output_dir "
            "or add --overwrite_output_dir"
        )
    else:
        refuse_used_folder(data_args, training_args, was_interrupted)
    return found


def refuse_used_folder(
    data_args: DataTrainingArguments, training_args: TrainingArguments, was_interrupted: bool = False
) -> None:
    """Make sure that no work of another run would be overwritten.

    Args:
        data_args: whether that is allowed.
        training_args: the output folder.
        was_interrupted: whether what lies there is of a run with the same arguments that did not end.

    Raises:
        UsageError: the output folder is not empty, and --overwrite_output_dir does not allow that.
    """
    output_dir = Path(training_args.output_dir)
    used = output_dir.is_dir() and not all(is_leftover(path) for path in output_dir.iterdir())
    if used and not was_interrupted and not data_args.overwrite_output_dir:
        raise UsageError(
            f"--output_dir {output_dir} is not empty and has no complete checkpoint to go on from: "
            "name another one, or add --overwrite_output_dir"
        )


def last_complete_checkpoint(output_dir: Path) -> str | None:
    """Find the newest checkpoint that is whole."""
    for path in (output_dir / TRAINED, *reversed(checkpoints(output_dir).values())):
        if path.name == TRAINED and not path.is_dir():
            continue
        flaw = flaw_of(path)
        if flaw is None:
            return os.fspath(path)
        logger.warning(f"{path} was not saved to its end: passed over ({flaw})")
    return None


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
        check_answers(_limited(raw_datasets["train"], data_args.max_train_samples), data_args.version_2_with_negative)
    if training_args.do_eval:
        questions = _limited(raw_datasets["validation"], data_args.max_eval_samples)
        check_ids(questions)
        check_references(questions, data_args.version_2_with_negative, training_args.metric_for_best_model)
    if training_args.do_predict:
        check_ids(_limited(raw_datasets["test"], data_args.max_predict_samples))
    return raw_datasets


def _limited(examples: Dataset, limit: int | None) -> Dataset:
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


def build_features(
    raw_datasets: DatasetDict,
    models: Models,
    data_args: DataTrainingArguments,
    training_args: TrainingArguments,
) -> tuple[Dataset | None, Dataset | None, Dataset | None, Dataset | None, Dataset | None]:
    """Make the features of the splits that are asked for.

    Args:
        raw_datasets: the questions.
        models: for which features are made.
        data_args: how the questions are cut, and how many of them.
        training_args: which splits are asked for.

    Returns:
        Features to train on, evaluate on and predict for; questions to evaluate on and predict for. None where not
        asked for.

    Raises:
        UsageError: the model or the teacher cannot take such features.
        DataError: a question leaves no room for its context, or ids or answers are wrong.
    """
    settings = cutting(models, data_args)

    def make(split: str, prepare: Callable, limit: int | None, **more: Any) -> tuple[Dataset, Dataset]:
        examples = _limited(raw_datasets[split], limit)
        with training_args.main_process_first(desc=f"features of the {split} data"):
            features = examples.map(
                prepare,
                batched=True,
                num_proc=data_args.preprocessing_num_workers,
                remove_columns=examples.column_names,
                load_from_cache_file=not data_args.overwrite_cache,
                fn_kwargs=settings | more,
                desc=f"Making features of the {split} data",
            )
        return examples, features

    train_dataset = eval_dataset = predict_dataset = eval_examples = predict_examples = None
    if training_args.do_train:
        limit = data_args.max_train_samples
        _, train_dataset = make("train", prepare_train_features, limit, length_column=length_column(training_args))
        if limit is not None:
            train_dataset = train_dataset.select(range(min(limit, len(train_dataset))))
        batch = training_args.train_batch_size * training_args.world_size
        if training_args.dataloader_drop_last and len(train_dataset) < batch:
            raise DataError(
                f"--dataloader_drop_last leaves nothing to train on: {len(train_dataset)} features are no full batch "
                f"of {batch}"
            )
    # The limits below count questions. All their features stay: a question without its last windows would get a wrong
    # answer.
    if training_args.do_eval:
        eval_examples, eval_dataset = make("validation", prepare_validation_features, data_args.max_eval_samples)
    if training_args.do_predict:
        predict_examples, predict_dataset = make("test", prepare_validation_features, data_args.max_predict_samples)
    return train_dataset, eval_dataset, predict_dataset, eval_examples, predict_examples


def cutting(models: Models, data_args: DataTrainingArguments) -> dict[str, Any]:
    """Settings by which questions and contexts are cut into features.

    Raises:
        UsageError: the model or the teacher cannot take such features.
    """
    tokenizer, teacher = models.feature_tokenizer, models.teacher
    length = usable_length(tokenizer, models.model, data_args.max_seq_length)
    check_model(models.model, tokenizer, models.model.name_or_path, length)
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
        "doc_stride": usable_stride(tokenizer, data_args, length),
        "pad_to_max_length": pads_to_max_length(tokenizer, data_args),
    }


def length_column(training_args: TrainingArguments) -> str | None:
    """Name of the column of lengths, where batches are made by length."""
    by_length = training_args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
    return training_args.length_column_name if by_length else None


def usable_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, asked: int) -> int:
    """Give ``max_seq_length``, or the length that tokenizer and model are made for where that is less."""
    # A tokenizer may promise more than the model has positions for, which would fail at the first long feature.
    limit = min(n for n in (asked, tokenizer_limit(tokenizer), position_limit(model)) if n is not None)
    if asked > limit:
        logger.warning(f"--max_seq_length {asked} is more than the model's {limit}: using {limit}")
    return limit


def usable_stride(tokenizer: PreTrainedTokenizerBase, data_args: DataTrainingArguments, length: int) -> int:
    """Give ``doc_stride``, or a third of a window, as by default, where the default is too long for the windows."""
    default = type(data_args).doc_stride
    if data_args.doc_stride == default and default >= length - tokenizer.num_special_tokens_to_add(pair=True):
        logger.warning(f"Windows of {length} tokens cannot share {default}: they share {length // 3} (--doc_stride)")
        return length // 3
    return data_args.doc_stride


def pads_to_max_length(tokenizer: PreTrainedTokenizerBase, data_args: DataTrainingArguments) -> bool:
    """Tell whether features are padded when they are made.

    Padding on the left moves every token, so a batch-wise padding there would part logits from their positions.
    """
    return data_args.pad_to_max_length or tokenizer.padding_side == "left"


def pick_collator(
    tokenizer: PreTrainedTokenizerBase, data_args: DataTrainingArguments, training_args: TrainingArguments
) -> Callable:
    """Pad in the collator where the features are not padded yet."""
    if pads_to_max_length(tokenizer, data_args):
        return default_data_collator
    return DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8 if training_args.fp16 else None)


def make_post_process_function(
    data_args: DataTrainingArguments, training_args: TrainingArguments
) -> Callable[[Dataset, Dataset, Any, str], EvalPrediction]:
    """Make the function that turns logits into answers and, on the main process, writes them to the output folder."""

    def post_process(examples: Dataset, features: Dataset, predictions: Any, stage: str = "eval") -> EvalPrediction:
        answers = postprocess_qa_predictions(
            examples,
            features,
            predictions,
            version_2_with_negative=data_args.version_2_with_negative,
            n_best_size=data_args.n_best_size,
            max_answer_length=data_args.max_answer_length,
            null_score_diff_threshold=data_args.null_score_diff_threshold,
            output_dir=training_args.output_dir if training_args.should_save else None,
            prefix=stage,
            log_level=training_args.get_process_log_level(),
        )
        extra = {"no_answer_probability": 0.0} if data_args.version_2_with_negative else {}
        predicted = [{"id": name, "prediction_text": text, **extra} for name, text in answers.items()]
        references = [
            {"id": name, "answers": truth} for name, truth in zip(examples["id"], examples["answers"], strict=True)
        ]
        return EvalPrediction(predictions=predicted, label_ids=references)

    return post_process


def make_compute_metrics(data_args: DataTrainingArguments) -> Callable[[EvalPrediction], dict[str, float]]:
    """Make the function that scores answers: EM and F1, in SQuAD's first or second version."""

    def compute_metrics(outcome: EvalPrediction) -> dict[str, float]:
        if data_args.version_2_with_negative:
            return squad_v2_metrics(outcome.predictions, outcome.label_ids)
        if not any(has_answer_text(reference["answers"]) for reference in outcome.label_ids):
            logger.warning("No question comes with its answer: there is nothing to score")
            return {}
        return squad_metrics(outcome.predictions, outcome.label_ids)

    return compute_metrics


def train(
    trainer: QuestionAnsweringTrainer, checkpoint: str | None, data_args: DataTrainingArguments
) -> dict[str, float]:
    """Train, save the model with its tokenizer, and write train_results.json and trainer_state.json."""
    trainer.keeps_end = True
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    former = Path(trainer.args.output_dir, "train_results.json")
    if checkpoint is not None and trainer.made_no_step and former.is_file():
        metrics = json.loads(former.read_text(encoding="utf-8"))  # those of the training, not of its last moment
    trainer.save_model()
    report(trainer, "train", metrics, data_args.max_train_samples, trainer.train_dataset)
    trainer.save_state()
    return metrics


def evaluate(trainer: QuestionAnsweringTrainer, data_args: DataTrainingArguments) -> dict[str, float]:
    """Evaluate and write eval_results.json."""
    logger.info("*** Evaluate ***")
    return report(trainer, "eval", trainer.evaluate(), data_args.max_eval_samples, trainer.eval_dataset)


def predict(
    trainer: QuestionAnsweringTrainer, features: Dataset, examples: Dataset, data_args: DataTrainingArguments
) -> dict[str, float]:
    """Answer the test questions and write predict_results.json, with scores where the answers are known."""
    logger.info("*** Predict ***")
    score = trainer.compute_metrics
    if not any(map(has_answer_text, examples["answers"])):
        logger.warning("No question comes with its answer: there is nothing to score")
        trainer.compute_metrics = None
    try:
        metrics = trainer.predict(features, examples).metrics
    finally:
        trainer.compute_metrics = score
    return report(trainer, "predict", metrics, data_args.max_predict_samples, features)


def report(
    trainer: QuestionAnsweringTrainer, stage: str, metrics: dict[str, float], limit: int | None, features: Dataset
) -> dict[str, float]:
    """Count the samples as the well-known script does (features, or the limit if that is less), log and save."""
    metrics[f"{stage}_samples"] = len(features) if limit is None else min(limit, len(features))
    trainer.log_metrics(stage, metrics)
    trainer.save_metrics(stage, metrics)
    return metrics


def describe(trainer: QuestionAnsweringTrainer, model_args: ModelArguments, data_args: DataTrainingArguments) -> None:
    """Write the model card, or push model and card to the hub."""
    facts: dict[str, str] = {"finetuned_from": model_args.model_name_or_path, "tasks": "question-answering"}
    if data_args.dataset_name is not None:
        facts["dataset_tags"] = facts["dataset"] = data_args.dataset_name
        if data_args.dataset_config_name is not None:
            facts["dataset_args"] = data_args.dataset_config_name
            facts["dataset"] += f" {data_args.dataset_config_name}"
    if trainer.args.push_to_hub:
        trainer.push_to_hub(**facts)
    else:
        trainer.create_model_card(**facts)
