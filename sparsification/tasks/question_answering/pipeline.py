"""Steps of the question-answering script: the Trainer, training, evaluation, export, and the files that it writes."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, TrainingArguments

from sparsification.arguments import SparsificationArguments
from sparsification.export.onnx import ExportReport, refuse_unrecordable
from sparsification.report.tables import plain, result_table
from sparsification.tasks import model_card
from sparsification.tasks.exported import evaluate_files
from sparsification.tasks.question_answering.answers import postprocess_qa_predictions
from sparsification.tasks.question_answering.arguments import DataTrainingArguments, Flags, ModelArguments
from sparsification.tasks.question_answering.feature_sets import build_collator
from sparsification.tasks.question_answering.loading import Models
from sparsification.tasks.question_answering.metrics import squad_metrics, squad_v2_metrics
from sparsification.tasks.question_answering.records import has_answer_text
from sparsification.tasks.question_answering.sparse_trainer import SparseQuestionAnsweringTrainer
from sparsification.tasks.question_answering.trainer import PostProcess, QuestionAnsweringTrainer, ScoredRecords

logger = logging.getLogger(__name__)


def make_trainer(
    flags: Flags,
    models: Models,
    train_dataset: Dataset | None,
    eval_dataset: Dataset | None,
    eval_examples: Dataset | None,
    teacher_cache: str | None,
) -> SparseQuestionAnsweringTrainer:
    """Make the Trainer of a run."""
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
        data_collator=build_collator(models.tokenizer, flags.data, flags.training),
        post_process_function=make_post_process_function(flags.data, flags.training),
        compute_metrics=make_compute_metrics(flags.data),
    )


def check_export(model: PreTrainedModel, sparse_args: SparsificationArguments) -> None:
    """Refuse a model that could not be exported at the end, if the run exports."""
    if sparse_args.onnx_export_path is not None:
        refuse_unrecordable(model)


def evaluate_exported(
    trainer: SparseQuestionAnsweringTrainer,
    exported: ExportReport | None,
    directory: str,
    data_args: DataTrainingArguments,
) -> dict[str, float]:
    """Evaluate the ONNX files in ONNX Runtime and write eval_onnx_results.json and eval_onnx_sparse_results.json."""
    metrics: dict[str, float] = {}
    for stage, found in evaluate_files(trainer, exported, Path(directory)):
        metrics |= save_metrics(trainer, stage, found, data_args.max_eval_samples, trainer.eval_dataset)
    return metrics


def evaluate_teacher(
    trainer: SparseQuestionAnsweringTrainer, data_args: DataTrainingArguments, student: dict[str, float]
) -> dict[str, float]:
    """Evaluate the teacher, write eval_teacher_results.json, and warn if its score is too low."""
    metrics = trainer.evaluate_teacher()
    warn_of_weak_teacher(student, metrics)
    return save_metrics(trainer, "eval_teacher", metrics, data_args.max_eval_samples, trainer.eval_dataset)


# F1 of a baseline without training, the sliding window of Rajpurkar et al. 2016 (arXiv:1606.05250, table 5); random
# guessing has 4.
UNTRAINED_F1 = 20.0
# A student may exceed its teacher by a few points, but not by half of the teacher's score.
FAR_BELOW = 2 / 3


def warn_of_weak_teacher(student: dict[str, float], teacher: dict[str, float]) -> None:
    """Warn of a teacher whose F1 is below an untrained baseline, or far below its student's.

    For SQuAD 2.0 the F1 of questions with an answer is used, because always answering "no answer" has an F1 of 50.
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


def report_run(
    trainer: SparseQuestionAnsweringTrainer,
    argv: list[str],
    model_args: ModelArguments,
    data_args: DataTrainingArguments,
    sparse_args: SparsificationArguments,
    metrics: dict[str, float],
) -> None:
    """Write the report of a run with a recipe into the output folder, and print its table."""
    teacher = model_args.model_name_or_path if sparse_args.distill_teacher == "self" else sparse_args.distill_teacher
    exact = "exact" if data_args.version_2_with_negative else "exact_match"
    trainer.write_report(
        ["python", "run_qa.py", *argv], {exact: "EM", "f1": "F1"}, metrics, teacher, sparse_args.onnx_export_path
    )
    if trainer.result is not None:
        print(f"\n{plain(result_table(trainer.result))}\n\nThe report is in {trainer.args.output_dir}/report.html")


def make_post_process_function(data_args: DataTrainingArguments, training_args: TrainingArguments) -> PostProcess:
    """Make the function that computes answers from logits and writes them to the output folder on the main process."""

    def post_process(examples: Dataset, features: Dataset, predictions: Any, stage: str) -> ScoredRecords:
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
        return ScoredRecords(predictions=predicted, label_ids=references)

    return post_process


def make_compute_metrics(data_args: DataTrainingArguments) -> Callable[[ScoredRecords], dict[str, float]]:
    """Make the function that scores answers: EM and F1 of SQuAD v1.1 or 2.0."""

    def compute_metrics(outcome: ScoredRecords) -> dict[str, float]:
        if data_args.version_2_with_negative:
            return squad_v2_metrics(outcome.predictions, outcome.label_ids)
        if not any(has_answer_text(reference["answers"]) for reference in outcome.label_ids):
            logger.warning("No question has a true answer: there is nothing to score")
            return {}
        return squad_metrics(outcome.predictions, outcome.label_ids)

    return compute_metrics


def train(
    trainer: SparseQuestionAnsweringTrainer, checkpoint: str | None, data_args: DataTrainingArguments
) -> dict[str, float]:
    """Train, save the model with its tokenizer, and write train_results.json and trainer_state.json."""
    trainer.keeps_end = True
    trainer.replaces_run = data_args.overwrite_output_dir
    metrics = trainer.train(resume_from_checkpoint=checkpoint).metrics
    former = Path(trainer.args.output_dir, "train_results.json")
    if checkpoint is not None and trainer.made_no_step and former.is_file():
        metrics = json.loads(former.read_text(encoding="utf-8"))  # of the whole training, not of the resumed part
    trainer.save_model()
    save_metrics(trainer, "train", metrics, None, trainer.train_dataset)
    trainer.save_state()
    return metrics


def evaluate(trainer: QuestionAnsweringTrainer, data_args: DataTrainingArguments) -> dict[str, float]:
    """Evaluate and write eval_results.json."""
    logger.info("*** Evaluate ***")
    return save_metrics(trainer, "eval", trainer.evaluate(), data_args.max_eval_samples, trainer.eval_dataset)


def predict(
    trainer: QuestionAnsweringTrainer, features: Dataset, examples: Dataset, data_args: DataTrainingArguments
) -> dict[str, float]:
    """Answer the test questions and write predict_results.json, with scores if the answers are known."""
    logger.info("*** Predict ***")
    score = trainer.compute_metrics
    if not any(map(has_answer_text, examples["answers"])):
        logger.warning("No question has a true answer: there is nothing to score")
        trainer.compute_metrics = None
    try:
        metrics = trainer.predict(features, examples).metrics
    finally:
        trainer.compute_metrics = score
    return save_metrics(trainer, "predict", metrics or {}, data_args.max_predict_samples, features)


def save_metrics(
    trainer: QuestionAnsweringTrainer, stage: str, metrics: dict[str, float], limit: int | None, features: Dataset
) -> dict[str, float]:
    """Add the number of samples as Transformers' script counts them (features, at most the limit), log and save."""
    metrics[f"{stage}_samples"] = len(features) if limit is None else min(limit, len(features))
    trainer.log_metrics(stage, metrics)
    trainer.save_metrics(stage, metrics)
    return metrics


def write_model_card(
    trainer: QuestionAnsweringTrainer, model_args: ModelArguments, data_args: DataTrainingArguments
) -> None:
    """Write the model card, or push model and card to the hub."""
    model_card.write_model_card(
        trainer,
        "question-answering",
        model_args.model_name_or_path,
        data_args.dataset_name,
        data_args.dataset_config_name,
    )
