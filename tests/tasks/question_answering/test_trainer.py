"""Does the trainer score answers, in the right order, however features are batched, and leave the rest to Trainer?"""

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import (
    AutoModelForQuestionAnswering,
    DataCollatorWithPadding,
    EvalPrediction,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    trainer_pt_utils,
)
from transformers.trainer_pt_utils import nested_concat

from sparsification.tasks.question_answering.answers import postprocess_qa_predictions
from sparsification.tasks.question_answering.data import load_squad_files
from sparsification.tasks.question_answering.features import prepare_train_features, prepare_validation_features
from sparsification.tasks.question_answering.metrics import squad_metrics
from sparsification.tasks.question_answering.trainer import QuestionAnsweringTrainer, join_batches


class Recorder(TrainerCallback):
    """Notes which metrics the callbacks are told."""

    def __init__(self) -> None:
        self.told = []

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        self.told.append(("evaluate", dict(metrics)))

    def on_predict(self, args, state, control, metrics, **kwargs):
        self.told.append(("predict", dict(metrics)))


@pytest.fixture(scope="module")
def examples(tiny_squad: Path) -> Dataset:
    """Questions with contexts of different lengths, short and long mixed."""
    data = load_squad_files({"train": tiny_squad / "train.json"})["train"].to_list()
    for index, row in enumerate(data):
        row["context"] += " Visitors like the old town." * (index % 3)
    return Dataset.from_list(data)


def post_process(examples: Dataset, features: Dataset, logits: tuple, stage: str) -> EvalPrediction:
    """Make answers, which carry the stage for the tests to see, and references."""
    answers = postprocess_qa_predictions(examples, features, logits)
    return EvalPrediction(
        predictions=[{"id": name, "prediction_text": text, "stage": stage} for name, text in answers.items()],
        label_ids=[{"id": row["id"], "answers": row["answers"]} for row in examples],
    )


def build(examples: Dataset, tokenizer, model_dir: Path, out: Path, *, pad: bool = False, given=None, **arguments):
    """Build a trainer over features of the examples."""
    cutting = {"tokenizer": tokenizer, "max_seq_length": 96, "doc_stride": 16, "pad_to_max_length": pad}
    columns = examples.column_names
    recorder = Recorder()
    trainer = QuestionAnsweringTrainer(
        model=AutoModelForQuestionAnswering.from_pretrained(model_dir),
        args=TrainingArguments(
            output_dir=str(out),
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            per_device_eval_batch_size=4,
            **arguments,
        ),
        train_dataset=examples.map(prepare_train_features, batched=True, remove_columns=columns, fn_kwargs=cutting),
        eval_dataset=examples.map(prepare_validation_features, batched=True, remove_columns=columns, fn_kwargs=cutting),
        processing_class=tokenizer,
        data_collator=default_data_collator if pad else DataCollatorWithPadding(tokenizer),
        callbacks=[recorder],
        **(
            {
                "eval_examples": examples,
                "post_process_function": post_process,
                "compute_metrics": lambda outcome: squad_metrics(outcome.predictions, outcome.label_ids),
            }
            if given is None
            else given
        ),
    )
    return trainer, recorder


def answers_one_by_one(trainer: QuestionAnsweringTrainer, examples: Dataset) -> dict[str, str]:
    """Answer each question with a batch of its own."""
    model = trainer.model.eval()
    answers = {}
    for row, feature in zip(examples, trainer.eval_dataset, strict=True):
        names = ("input_ids", "token_type_ids", "attention_mask")
        with torch.no_grad():
            output = model(**{name: torch.tensor([feature[name]]) for name in names})
        logits = output.start_logits.numpy(), output.end_logits.numpy()
        answers |= postprocess_qa_predictions([row], [feature], logits)
    return answers


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "batch_rebalance", "sequential"])
@pytest.mark.parametrize("pad", [True, False])
def test_answers_do_not_depend_on_batches(examples, tiny_tokenizer, tiny_model_dir, tmp_path, strategy, pad):
    trainer, _ = build(examples, tiny_tokenizer, tiny_model_dir, tmp_path, pad=pad, train_sampling_strategy=strategy)
    found = trainer.predict(trainer.eval_dataset, examples).predictions
    assert {record["id"]: record["prediction_text"] for record in found} == answers_one_by_one(trainer, examples)


@pytest.mark.parametrize(
    "arguments", [{"dataloader_drop_last": True}, {"dataloader_in_order": False, "dataloader_num_workers": 2}]
)
def test_what_training_batches_leave_out_or_mix_no_evaluation_does(
    examples, tiny_tokenizer, tiny_model_dir, tmp_path, arguments
):
    trainer, _ = build(examples, tiny_tokenizer, tiny_model_dir, tmp_path, **arguments)
    found = trainer.predict(trainer.eval_dataset, examples).predictions
    assert len(examples) % trainer.args.per_device_eval_batch_size != 0
    assert {record["id"]: record["prediction_text"] for record in found} == answers_one_by_one(trainer, examples)
    assert vars(trainer.args) | arguments == vars(trainer.args)


def test_evaluate_reports_scores_and_speed_to_log_and_callbacks(examples, tiny_tokenizer, tiny_model_dir, tmp_path):
    trainer, recorder = build(examples, tiny_tokenizer, tiny_model_dir, tmp_path)
    metrics = trainer.evaluate()
    assert {"eval_exact_match", "eval_f1", "eval_runtime", "eval_samples_per_second"} <= set(metrics)
    assert "eval_loss" not in metrics  # evaluation features carry no positions
    assert all(name.startswith(("eval_", "epoch")) for name in metrics)
    expected = squad_metrics(
        [{"id": k, "prediction_text": v} for k, v in answers_one_by_one(trainer, examples).items()], list(examples)
    )
    assert {name: metrics[f"eval_{name}"] for name in expected} == pytest.approx(expected)
    assert recorder.told[0][0] == "evaluate"
    assert recorder.told[0][1]["eval_f1"] == trainer.state.log_history[-1]["eval_f1"] == metrics["eval_f1"]
    assert trainer.compute_metrics is not None


def test_evaluate_takes_other_data_and_another_prefix(examples, tiny_tokenizer, tiny_model_dir, tmp_path):
    trainer, _ = build(examples, tiny_tokenizer, tiny_model_dir, tmp_path)
    metrics = trainer.evaluate(trainer.eval_dataset.select([4]), examples.select([4]), metric_key_prefix="dev")
    assert {"dev_exact_match", "dev_f1", "dev_runtime"} <= set(metrics)


def test_predict_gives_answers_references_and_test_metrics(examples, tiny_tokenizer, tiny_model_dir, tmp_path):
    trainer, recorder = build(examples, tiny_tokenizer, tiny_model_dir, tmp_path)
    output = trainer.predict(trainer.eval_dataset, examples)
    assert {"test_exact_match", "test_f1", "test_runtime"} <= set(output.metrics)
    assert {record["stage"] for record in output.predictions} == {"predict"}
    assert [record["id"] for record in output.label_ids] == examples["id"][:]
    assert recorder.told[-1][0] == "predict"
    bare = trainer.predict(trainer.eval_dataset)
    assert bare.predictions[0].shape[0] == len(trainer.eval_dataset)


def test_without_post_processing_it_is_the_plain_trainer(examples, tiny_tokenizer, tiny_model_dir, tmp_path):
    trainer, _ = build(examples, tiny_tokenizer, tiny_model_dir, tmp_path, given={})
    plain = Trainer(
        model=trainer.model,
        args=trainer.args,
        eval_dataset=trainer.train_dataset,
        processing_class=tiny_tokenizer,
        data_collator=trainer.data_collator,
    )
    with_positions = trainer.evaluate(trainer.train_dataset)
    assert with_positions["eval_loss"] == pytest.approx(plain.evaluate()["eval_loss"])


def test_best_checkpoint_is_chosen_by_f1(examples, tiny_tokenizer, tiny_model_dir, tmp_path):
    trainer, _ = build(
        examples,
        tiny_tokenizer,
        tiny_model_dir,
        tmp_path,
        num_train_epochs=2,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="f1",
        learning_rate=1e-3,
    )
    trainer.train()
    scores = {log["step"]: log["eval_f1"] for log in trainer.state.log_history if "eval_f1" in log}
    assert len(scores) == 2
    assert scores[trainer.state.best_global_step] == trainer.state.best_metric == max(scores.values())


def test_failed_evaluation_leaves_the_trainer_usable(examples, tiny_tokenizer, tiny_model_dir, tmp_path):
    trainer, _ = build(examples, tiny_tokenizer, tiny_model_dir, tmp_path)
    with pytest.raises(ValueError, match="features"):
        trainer.post_process_function = lambda *_: postprocess_qa_predictions([], [], ([1], [1]))
        trainer.evaluate()
    trainer.post_process_function = post_process
    assert "eval_f1" in trainer.evaluate()


def test_batches_are_joined_as_trainer_joins_them_and_held_once():
    rng = np.random.default_rng(0)
    shapes = [(8, 300), (8, 384), (8, 128), (3, 200)] * 40
    batches = [tuple(rng.normal(size=shape).astype(np.float32) for _ in range(2)) for shape in shapes]
    expected = batches[0]
    for batch in batches[1:]:
        expected = nested_concat(expected, batch, padding_index=-100)
    copies = [tuple(part.copy() for part in batch) for batch in batches]
    parts = [weakref.ref(part) for batch in copies for part in batch]
    joined = join_batches(copies)
    assert all(np.array_equal(found, part) for found, part in zip(joined, expected, strict=True))
    assert [found.dtype for found in joined] == [np.float32] * 2
    assert copies == []
    assert all(part() is None for part in parts)


def test_other_outputs_than_two_arrays_are_refused():
    with pytest.raises(ValueError, match="start logits and end logits"):
        join_batches([(np.zeros((2, 3)), (np.zeros((2, 3)),))])
    with pytest.raises(ValueError, match="start logits and end logits"):
        join_batches([np.zeros((2, 3))])


def test_logits_of_an_evaluation_are_not_concatenated_batch_after_batch(
    examples, tiny_tokenizer, tiny_model_dir, tmp_path, monkeypatch
):
    trainer, _ = build(examples, tiny_tokenizer, tiny_model_dir, tmp_path)
    concatenated = []
    monkeypatch.setattr(trainer_pt_utils, "nested_concat", lambda *_, **__: concatenated.append(1))
    assert "eval_f1" in trainer.evaluate()
    assert not concatenated
    assert trainer.args.eval_do_concat_batches
