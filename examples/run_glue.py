#!/usr/bin/env python
r"""Train a text classifier or a reranker with a recipe: Transformers' flags, and those of ``SparsificationArguments``.

    python examples/run_glue.py --model_name_or_path bert-base-uncased --train_file train.csv \
        --validation_file validation.csv --do_train --do_eval --recipe recipe.yaml --onnx_export_path out/onnx \
        --output_dir out

    python examples/run_glue.py --model_name_or_path bert-base-uncased --task_name sst2 --do_train --do_eval \
        --recipe recipe.yaml --output_dir out

Files are CSV, JSON, JSON lines or parquet with a column ``label`` and one or two columns of text. Labels that are
floating-point numbers mean regression: a model with one label. A reranker is such a model on pairs of a question and a
text. The same command resumes an interrupted run from its last checkpoint. ``--do_predict`` writes predict_results.txt.
"""

from dataclasses import dataclass, field

from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding
from transformers.trainer_utils import PredictionOutput

from sparsification.tasks.arguments import TaskArguments
from sparsification.tasks.script import Predictions, TaskRun, run_script
from sparsification.tasks.text_classification.data import LABEL, number_labels, text_columns
from sparsification.tasks.text_classification.metrics import GLUE, metrics_of, scores


@dataclass
class GlueArguments(TaskArguments):
    """The model and the data."""

    task_name: str | None = field(default=None, metadata={"help": "Task of GLUE, whose data is on the hub."})
    text_column_names: str | None = field(
        default=None, metadata={"help": "One or two columns of text, separated by a comma."}
    )
    label_column_name: str = field(default=LABEL, metadata={"help": "Column of labels."})

    def __post_init__(self) -> None:
        """Choose the data of a task of GLUE."""
        if self.task_name is not None:
            self.task_name = self.task_name.lower()
            if self.task_name not in GLUE:
                raise ValueError(f"--task_name {self.task_name}: expected one of {', '.join(GLUE)}")
            self.dataset_name, self.dataset_config_name = "nyu-mll/glue", self.task_name


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train and evaluate a classifier, and export it."""
    run = TaskRun.parse(GlueArguments, argv)
    args = run.task
    config = args.load_config()
    known = [config.id2label[number] for number in range(config.num_labels)]
    splits, labels = number_labels(args.load_splits(), known, args.label_column_name)
    named = args.text_column_names.split(",") if args.text_column_names else None
    texts = text_columns(next(iter(splits.values())), named)
    if labels is None:
        config.num_labels, config.problem_type = 1, "regression"
    else:
        config.id2label, config.problem_type = dict(enumerate(labels)), "single_label_classification"
        config.label2id = {label: number for number, label in enumerate(labels)}

    tokenizer, model = args.load_model(AutoModelForSequenceClassification, config)
    settings = args.tokenizer_settings(tokenizer)
    features = {
        split: run.make_features(data, lambda rows: tokenizer(*(rows[name] for name in texts), **settings), [LABEL])
        for split, data in splits.items()
    }
    for split in ("validation", "test"):  # of MNLI
        if f"{split}_matched" in features:
            features[split] = features[f"{split}_matched"]
    others = {"_mm": features["validation_mismatched"]} if "validation_mismatched" in features else {}

    def lines(output: PredictionOutput) -> list[str]:
        values = output.predictions
        found = (
            [f"{value:.3f}" for value in values[:, 0]] if labels is None else [labels[row.argmax()] for row in values]
        )
        return ["index\tprediction", *(f"{index}\t{text}" for index, text in enumerate(found))]

    trainer = run.make_trainer(
        model,
        tokenizer,
        features,
        run.load_teacher(AutoModelForSequenceClassification, model, tokenizer),
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
        compute_metrics=lambda output: scores(output.predictions, output.label_ids, args.task_name),
    )
    file_name = f"predict_results_{args.task_name}.txt" if args.task_name else "predict_results.txt"
    metrics = metrics_of(args.task_name, labels is None)
    predictions = [
        Predictions(features.get("test"), file_name, lines),
        Predictions(features.get("test_mismatched"), "predict_results_mnli-mm.txt", lines),
    ]
    return run.execute(trainer, {name: name for name in metrics}, "text-classification", predictions, others)


if __name__ == "__main__":
    run_script(main)
