#!/usr/bin/env python
r"""Train, evaluate and use a question-answering model: the script of Transformers' example, with its flags and files.

    python run_qa.py --model_name_or_path bert-base-uncased --dataset_name squad --do_train --do_eval \
        --per_device_train_batch_size 16 --learning_rate 3e-5 --num_train_epochs 2 --output_dir out

    python run_qa.py --model_name_or_path out --validation_file my-squad.json --do_eval --output_dir out

    python run_qa.py arguments.yaml

What lies between ``# [sparsification]`` and ``# [/sparsification]`` is added to the well-known script.
"""

import difflib
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import datasets
import transformers
import yaml
from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset, DatasetDict
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    HfArgumentParser,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from data_qa import EXTENSIONS, DataError, QAError, check_answers, check_ids, load_qa_dataset
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
from sparse_trainer import (
    SPARSE_FILE,
    SPARSIFICATION_ERRORS,
    SparseTrainerMixin,
    SparsificationArguments,
    load_manager,
    prepare_export,
)
from sparsification.flags import translate_flags
from sparsification.teacher import load_teacher


class SparseQuestionAnsweringTrainer(SparseTrainerMixin, QuestionAnsweringTrainer):
    """Trains by a recipe, evaluates by answers."""


# [/sparsification]

logger = logging.getLogger(__name__)
USER_ERRORS = (QAError, OSError, SafetensorError, *SPARSIFICATION_ERRORS)


class UsageError(QAError):
    """Arguments that do not fit each other or this machine's files."""


@dataclass
class ModelArguments:
    """Which model, configuration and tokenizer to start from."""

    model_name_or_path: str = field(metadata={"help": "Folder of a saved model, or its name on the hub."})
    config_name: str | None = field(
        default=None, metadata={"help": "Folder or name of the configuration, where it is not the model's."}
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Folder or name of the tokenizer, where it is not the model's."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "Where downloads and converted data are kept."})
    model_revision: str = field(default="main", metadata={"help": "Branch, tag or commit of the model on the hub."})
    token: str | None = field(
        default=None, metadata={"help": "Access token of the hub; without it, the one that `hf auth login` stored."}
    )
    trust_remote_code: bool = field(
        default=False,
        metadata={"help": "Run code that the model's repository brings along. Only for code that you have read."},
    )


@dataclass
class DataTrainingArguments:
    """Which data to use, and how it is cut into features and back into answers."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Folder of a data set, or its name on the hub (squad, squad_v2, ...)."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Which configuration of the data set."})
    train_file: str | None = field(
        default=None, metadata={"help": "Questions to train on: SQuAD-like JSON, JSON lines, CSV or parquet."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "Questions to evaluate on, likewise."})
    test_file: str | None = field(
        default=None, metadata={"help": "Questions to answer with --do_predict, likewise; answers may be missing."}
    )
    overwrite_cache: bool = field(default=False, metadata={"help": "Make the features anew, even if they are cached."})
    preprocessing_num_workers: int | None = field(
        default=None, metadata={"help": "How many processes make the features."}
    )
    max_seq_length: int = field(
        default=384, metadata={"help": "Tokens of a feature at most, question and special tokens included."}
    )
    pad_to_max_length: bool = field(
        default=True,
        metadata={
            "help": "Pad every feature to max_seq_length. With False each batch is padded to its longest feature, "
            "which is faster on CPU and GPU."
        },
    )
    max_train_samples: int | None = field(
        default=None, metadata={"help": "Train on this many questions (and features) only, e.g. for a quick try."}
    )
    max_eval_samples: int | None = field(default=None, metadata={"help": "Evaluate on this many questions only."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Answer this many test questions only."})
    version_2_with_negative: bool = field(
        default=False, metadata={"help": "Some questions have no answer, as in SQuAD 2.0."}
    )
    null_score_diff_threshold: float = field(
        default=0.0,
        metadata={
            "help": "By how much the score of no answer has to be ahead of the best answer's to win. "
            "Only with --version_2_with_negative."
        },
    )
    doc_stride: int = field(
        default=128, metadata={"help": "Tokens that two neighbouring windows of a long context share."}
    )
    n_best_size: int = field(default=20, metadata={"help": "How many candidate answers are kept for each question."})
    max_answer_length: int = field(
        default=30,
        metadata={"help": "Tokens of an answer at most: start and end are predicted apart, so they need a bound."},
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Train from the start in an output_dir that is not empty, whatever checkpoints it holds."},
    )

    def __post_init__(self) -> None:
        """Check what concerns these arguments alone."""
        files = {"train_file": self.train_file, "validation_file": self.validation_file, "test_file": self.test_file}
        if self.dataset_name is None and not any(files.values()):
            raise ValueError("no data: give --dataset_name, or --train_file, --validation_file or --test_file")
        for name, path in files.items():
            if path is not None and Path(path).suffix[1:].lower() not in EXTENSIONS:
                raise ValueError(
                    f"--{name} {path}: expected a file that ends in {', '.join('.' + e for e in EXTENSIONS)}"
                )
        for name in ("max_seq_length", "n_best_size", "max_answer_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: expected 1 or more")

    @property
    def data_files(self) -> dict[str, str]:
        """Split name -> path, for the files that were given."""
        files = {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}
        return {split: path for split, path in files.items() if path is not None}


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Do what the arguments ask for.

    Args:
        argv: the command line's arguments; None means this process's own.

    Returns:
        All metrics, as in all_results.json.
    """
    model_args, data_args, sparse_args, training_args = parse_arguments(sys.argv[1:] if argv is None else argv)
    set_up_logging(training_args)
    # [sparsification]
    manager = load_manager(sparse_args)  # first of all: a wrong recipe should cost no time
    prepare_export(sparse_args)
    if sparse_args.one_shot:
        refuse_used_folder(data_args, training_args)
        if manager.quantizes and data_args.dataset_name is None and data_args.train_file is None:
            raise UsageError(f"--one_shot {sparse_args.recipe} sets its ranges on training data: give --train_file")
        training_args.do_train = manager.quantizes
    # [/sparsification]
    checkpoint = find_checkpoint(data_args, training_args)
    set_seed(training_args.seed)

    raw_datasets = load_data(model_args, data_args, training_args)
    tokenizer, model = load_model(model_args)
    train_dataset, eval_dataset, predict_dataset, eval_examples, predict_examples = build_features(
        raw_datasets, tokenizer, model, data_args, training_args
    )

    # [sparsification]
    trainer = SparseQuestionAnsweringTrainer(
        manager=manager,
        teacher=load_teacher(
            sparse_args.distill_teacher if training_args.do_train and not sparse_args.one_shot else "disable",
            AutoModelForQuestionAnswering,
            model,
            tokenizer,
            manager,
            **hub_settings(model_args),
        ),
        teacher_cache=None
        if sparse_args.teacher_cache == "off"
        else sparse_args.teacher_cache or model_args.cache_dir or datasets.config.HF_DATASETS_CACHE,
        best_model_after_epoch=sparse_args.best_model_after_epoch,
        model=model,
        args=training_args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        eval_examples=eval_examples,
        processing_class=tokenizer,
        data_collator=pick_collator(tokenizer, data_args, training_args),
        post_process_function=make_post_process_function(data_args, training_args),
        compute_metrics=make_compute_metrics(data_args),
    )
    if sparse_args.one_shot:
        trainer.apply_once()
        training_args.do_train = False
    # [/sparsification]

    metrics: dict[str, float] = {}
    if training_args.do_train:
        metrics |= train(trainer, checkpoint, data_args)
    if training_args.do_eval:
        metrics |= evaluate(trainer, data_args)
    if training_args.do_predict:
        metrics |= predict(trainer, predict_dataset, predict_examples, data_args)
    # [sparsification]
    if sparse_args.onnx_export_path is not None:
        exported = trainer.export_onnx(sparse_args.onnx_export_path, sparse_args.onnx_target, sparse_args.onnx_opset)
        if training_args.do_eval:
            onnx_metrics = trainer.evaluate_onnx(sparse_args.onnx_export_path)
            if exported is not None:
                onnx_metrics["eval_onnx_max_difference"] = exported.max_difference
                onnx_metrics["eval_onnx_mean_difference"] = exported.mean_difference
            metrics |= report(trainer, "eval_onnx", onnx_metrics, data_args.max_eval_samples, eval_dataset)
            if (Path(sparse_args.onnx_export_path) / SPARSE_FILE).is_file():
                sparse_metrics = trainer.evaluate_onnx(sparse_args.onnx_export_path, SPARSE_FILE, "eval_onnx_sparse")
                metrics |= report(trainer, "eval_onnx_sparse", sparse_metrics, data_args.max_eval_samples, eval_dataset)
    # [/sparsification]
    describe(trainer, model_args, data_args)
    return metrics


class ArgumentParser(HfArgumentParser):
    """HfArgumentParser whose complaints are one message, without pages of usage."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print and exit with."""
        raise UsageError(message)


def parse_arguments(
    argv: list[str],
) -> tuple[ModelArguments, DataTrainingArguments, SparsificationArguments, TrainingArguments]:
    """Read the command line, or the JSON or YAML file that is its only argument.

    Raises:
        UsageError: an unknown flag or key, or a value that is refused.
    """
    parser = ArgumentParser((ModelArguments, DataTrainingArguments, SparsificationArguments, TrainingArguments))
    if len(argv) == 1 and argv[0].endswith((".json", ".yaml", ".yml")):
        argv = read_config_file(argv[0])
    # [sparsification]
    argv, warnings = translate_flags(argv)
    for line in warnings:
        logger.warning(line)
    # [/sparsification]
    try:
        *parsed, unknown = parser.parse_args_into_dataclasses(argv, return_remaining_strings=True)
    except (ValueError, TypeError, ImportError) as error:  # what the arguments' own checks raise
        raise UsageError(str(error)) from error
    if unknown:
        flag = unknown[0].partition("=")[0]
        near = difflib.get_close_matches(flag, parser._option_string_actions, n=1)
        raise UsageError(f"unknown: {' '.join(unknown)}" + (f"; did you mean {near[0]}?" if near else ""))
    return tuple(parsed)


def read_config_file(path: str) -> list[str]:
    """Turn a JSON or YAML file of ``flag: value`` into a command line, so that both are checked alike.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        values = json.loads(text) if path.endswith(".json") else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"{path}: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path}: expected flags and their values, found {type(values).__name__}")
    argv = []
    for name, value in values.items():
        if isinstance(value, list) and value:
            argv += [f"--{name}", *map(str, value)]
        elif value is not None and value != []:
            argv.append(f"--{name}={json.dumps(value) if isinstance(value, dict) else value}")
    return argv


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
    logger.warning(
        f"Process {training_args.process_index} of {training_args.world_size} on {training_args.device}, "
        f"{training_args.n_gpu} GPUs, fp16 {training_args.fp16}, bf16 {training_args.bf16}"
    )
    logger.info(f"Arguments: {training_args}")


def find_checkpoint(data_args: DataTrainingArguments, training_args: TrainingArguments) -> str | None:
    """Find the checkpoint that training goes on from.

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
        if not (Path(named) / "trainer_state.json").is_file():
            raise UsageError(f"--resume_from_checkpoint {named}: no such folder, or no trainer_state.json in it")
        return named
    if data_args.overwrite_output_dir:
        return None
    if found is not None:
        logger.info(
            f"Going on from {found}. To train from the start instead, name another --output_dir "
            "or add --overwrite_output_dir"
        )
    else:
        refuse_used_folder(data_args, training_args)
    return found


def refuse_used_folder(data_args: DataTrainingArguments, training_args: TrainingArguments) -> None:
    """Make sure that no work of another run would be overwritten.

    Raises:
        UsageError: the output folder is not empty, and --overwrite_output_dir does not allow that.
    """
    output_dir = Path(training_args.output_dir)
    if output_dir.is_dir() and any(output_dir.iterdir()) and not data_args.overwrite_output_dir:
        raise UsageError(
            f"--output_dir {output_dir} is not empty and has no complete checkpoint to go on from: "
            "name another one, or add --overwrite_output_dir"
        )


def last_complete_checkpoint(output_dir: Path) -> str | None:
    """Find the newest checkpoint that was saved to its end: trainer_state.json is what Trainer writes last."""
    steps = {}
    for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
        step = path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-")
        if step.isdecimal() and path.is_dir():
            steps[int(step)] = path
    for _, path in sorted(steps.items(), reverse=True):
        if (path / "trainer_state.json").is_file():
            return os.fspath(path)
        logger.warning(f"{path} was not saved to its end: passed over")
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
    return raw_datasets


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
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"--model_name_or_path {name}: {error}") from error
    if not tokenizer.is_fast:
        raise UsageError(
            f"{model_args.tokenizer_name or name}: {type(tokenizer).__name__} is no fast tokenizer, so it cannot say "
            "where in the text its tokens stand; take a model that has a fast one"
        )
    embeddings = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > embeddings:
        raise UsageError(
            f"the tokenizer of {model_args.tokenizer_name or name} has {len(tokenizer)} tokens, "
            f"the model {name} embeddings for {embeddings}: they do not belong together"
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
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    data_args: DataTrainingArguments,
    training_args: TrainingArguments,
) -> tuple[Dataset | None, Dataset | None, Dataset | None, Dataset | None, Dataset | None]:
    """Make the features of the splits that are asked for.

    Returns:
        Features to train on, evaluate on and predict for; questions to evaluate on and predict for. None where not
        asked for.
    """
    cutting = {
        "tokenizer": tokenizer,
        "max_seq_length": usable_length(tokenizer, model, data_args.max_seq_length),
        "doc_stride": data_args.doc_stride,
        "pad_to_max_length": pads_to_max_length(tokenizer, data_args),
    }

    def make(split: str, prepare: Callable, limit: int | None, **more: Any) -> tuple[Dataset, Dataset]:
        examples = raw_datasets[split]
        if limit is not None:
            examples = examples.select(range(min(limit, len(examples))))
        with training_args.main_process_first(desc=f"features of the {split} data"):
            features = examples.map(
                prepare,
                batched=True,
                num_proc=data_args.preprocessing_num_workers,
                remove_columns=examples.column_names,
                load_from_cache_file=not data_args.overwrite_cache,
                fn_kwargs=cutting | more,
                desc=f"Making features of the {split} data",
            )
        return examples, features

    train_dataset = eval_dataset = predict_dataset = eval_examples = predict_examples = None
    if training_args.do_train:
        limit = data_args.max_train_samples
        by_length = training_args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
        length_column = training_args.length_column_name if by_length else None
        train_examples, train_dataset = make("train", prepare_train_features, limit, length_column=length_column)
        check_answers(train_examples, data_args.version_2_with_negative)
        if limit is not None:
            train_dataset = train_dataset.select(range(min(limit, len(train_dataset))))
    # The limits below count questions. All their features stay: a question without its last windows would get a wrong
    # answer.
    if training_args.do_eval:
        eval_examples, eval_dataset = make("validation", prepare_validation_features, data_args.max_eval_samples)
        check_ids(eval_examples)
    if training_args.do_predict:
        predict_examples, predict_dataset = make("test", prepare_validation_features, data_args.max_predict_samples)
        check_ids(predict_examples)
    return train_dataset, eval_dataset, predict_dataset, eval_examples, predict_examples


def usable_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, asked: int) -> int:
    """Give ``max_seq_length``, or the length that tokenizer and model are made for where that is less."""
    limit = tokenizer.model_max_length
    if limit > 1_000_000:  # the tokenizer does not know: ask the model, which would fail on its missing positions
        limit = getattr(model.config, "max_position_embeddings", None) or asked
    if asked > limit:
        logger.warning(f"--max_seq_length {asked} is more than the model's {limit}: using {limit}")
    return min(asked, limit)


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
        if not any(reference["answers"]["text"] for reference in outcome.label_ids):
            logger.warning("No question comes with its answer: there is nothing to score")
            return {}
        return squad_metrics(outcome.predictions, outcome.label_ids)

    return compute_metrics


def train(
    trainer: QuestionAnsweringTrainer, checkpoint: str | None, data_args: DataTrainingArguments
) -> dict[str, float]:
    """Train, save the model with its tokenizer, and write train_results.json and trainer_state.json."""
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
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
    """Answer the test questions and write predict_results.json."""
    logger.info("*** Predict ***")
    metrics = trainer.predict(features, examples).metrics
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


def explain(error: BaseException) -> str | None:
    """Say in one message what the user can do about an error, or None where it is a fault of the program."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; checkpoints that were saved stay, and the same command goes on from the last one"
    if isinstance(error, MemoryError) or should_reduce_batch_size(error):
        return (
            f"not enough memory: {error}. Try a smaller --per_device_train_batch_size (with more "
            "--gradient_accumulation_steps), a smaller --per_device_eval_batch_size or a shorter --max_seq_length"
        )
    if isinstance(error, USER_ERRORS) or "PytorchStreamWriter" in str(error):
        return str(error)
    return None


def run() -> int:
    """Run :func:`main` for the command line and give its exit status: 0, 1 with one message, 130 after Ctrl-C."""
    try:
        main()
    except (*USER_ERRORS, MemoryError, RuntimeError, KeyboardInterrupt) as error:
        message = explain(error)
        if message is None:
            raise
        tqdm.write(f"run_qa.py: error: {message}", file=sys.stderr)  # past a progress bar, if there is one
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    return 0


if __name__ == "__main__":
    sys.exit(run())
