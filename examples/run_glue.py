#!/usr/bin/env python
r"""Train a text classifier with a recipe: Transformers' flags, and those of ``SparsificationArguments``.

    python examples/run_glue.py --model_name_or_path bert-base-uncased --train_file train.csv \
        --validation_file validation.csv --do_train --do_eval --recipe recipe.yaml --onnx_export_path out/onnx \
        --output_dir out

    python examples/run_glue.py --model_name_or_path bert-base-uncased --dataset_name nyu-mll/glue \
        --dataset_config_name sst2 --do_train --do_eval --recipe recipe.yaml --output_dir out

Files are CSV, JSON or JSON lines with a column ``label`` and one or two columns of text. The same command resumes an
interrupted run from its last checkpoint.
"""

import numpy as np
from datasets import ClassLabel, DatasetDict, Value
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
)

from sparsification.tasks.errors import DataError
from sparsification.tasks.script import TaskArguments, TaskRun, run_script


def number_labels(splits: DatasetDict) -> tuple[DatasetDict, list[str]]:
    """Make ``label`` class numbers, where they are texts or other numbers; gives the classes' names, too."""
    first = next(iter(splits.values()))
    if "label" not in first.column_names:
        raise DataError(f"the data needs a column 'label', it has {', '.join(first.column_names)}")
    if not isinstance(first.features["label"], ClassLabel):
        splits = splits.cast_column("label", Value("string"))
        names = sorted({label for split in splits.values() for label in split.unique("label")})
        splits = splits.cast_column("label", ClassLabel(names=names))
    return splits, next(iter(splits.values())).features["label"].names


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the examples whose highest logit is that of their label."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=1) == prediction.label_ids).mean())}


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train and evaluate a classifier, and export it."""
    run = TaskRun.parse(TaskArguments, argv)
    splits, labels = number_labels(run.task.load_splits())
    tokenizer, model = run.load_model(AutoModelForSequenceClassification, labels)
    first = next(iter(splits.values()))
    texts = [name for name, feature in first.features.items() if feature.dtype in ("string", "large_string")][:2]
    splits = splits.map(
        lambda rows: tokenizer(*(rows[name] for name in texts), truncation=True, max_length=run.task.max_seq_length),
        batched=True,
    )
    trainer = run.make_trainer(
        AutoModelForSequenceClassification,
        model,
        tokenizer,
        splits,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
        compute_metrics=accuracy,
    )
    return run.execute(trainer, {"accuracy": "accuracy"})


if __name__ == "__main__":
    run_script(main)
