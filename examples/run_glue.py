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

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import ClassLabel, DatasetDict, Value, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    EvalPrediction,
    HfArgumentParser,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from sparsification import SparseTrainer, SparsificationArguments, SparsificationError, load_teacher
from sparsification.arguments import load_manager


@dataclass
class GlueArguments:
    """The model and the data."""

    model_name_or_path: str
    dataset_name: str | None = None
    dataset_config_name: str | None = None
    train_file: str | None = None
    validation_file: str | None = None
    max_seq_length: int = 128


def load_data(args: GlueArguments) -> DatasetDict:
    """Load the splits, with ``label`` as class numbers."""
    if args.dataset_name is not None:
        splits = load_dataset(args.dataset_name, args.dataset_config_name)
    else:
        files = {"train": args.train_file, "validation": args.validation_file}
        files = {split: file for split, file in files.items() if file is not None}
        if not files:
            raise SparsificationError("there is no data: give --dataset_name, or --train_file and --validation_file")
        kind = "csv" if next(iter(files.values())).endswith(".csv") else "json"
        splits = load_dataset(kind, data_files=files)
    first = next(iter(splits.values()))
    if "label" not in first.column_names:
        raise SparsificationError(f"the data needs a column 'label', it has {', '.join(first.column_names)}")
    if not isinstance(first.features["label"], ClassLabel):
        splits = splits.cast_column("label", Value("string"))
        names = sorted({label for split in splits.values() for label in split.unique("label")})
        splits = splits.cast_column("label", ClassLabel(names=names))
    return splits


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """Share of the examples whose highest logit is that of their label."""
    return {"accuracy": float((np.argmax(prediction.predictions, axis=1) == prediction.label_ids).mean())}


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train, evaluate and export, as the arguments say."""
    parser = HfArgumentParser((GlueArguments, TrainingArguments, SparsificationArguments))
    args, training_args, sparse_args = parser.parse_args_into_dataclasses(argv)
    manager = load_manager(sparse_args.recipe, sparse_args.recipe_args, sparse_args.one_shot)
    set_seed(training_args.seed)

    splits = load_data(args)
    labels = splits["train" if "train" in splits else "validation"].features["label"].names
    tokenizer = AutoTokenizer.from_pretrained(args.model_name_or_path)
    model = AutoModelForSequenceClassification.from_pretrained(
        args.model_name_or_path,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    first = next(iter(splits.values()))
    texts = [name for name, feature in first.features.items() if feature.dtype in ("string", "large_string")][:2]
    splits = splits.map(
        lambda rows: tokenizer(*(rows[name] for name in texts), truncation=True, max_length=args.max_seq_length),
        batched=True,
    )

    # What concerns the recipe: the manager, the teacher and the Trainer's class.
    distilling = manager.recipe.source if manager.distills else None
    teacher = load_teacher(
        sparse_args.distill_teacher, AutoModelForSequenceClassification, model, tokenizer, distilling
    )
    trainer = SparseTrainer(
        manager=manager,
        teacher=teacher,
        best_model_after_epoch=sparse_args.best_model_after_epoch,
        model=model,
        args=training_args,
        train_dataset=splits.get("train"),
        eval_dataset=splits.get("validation"),
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
        compute_metrics=accuracy,
    )
    metrics: dict[str, float] = {}
    if sparse_args.one_shot:
        trainer.apply_one_shot()
    elif training_args.do_train:
        started = Path(training_args.output_dir).is_dir()
        checkpoint = get_last_checkpoint(training_args.output_dir) if started else None
        metrics |= trainer.train(resume_from_checkpoint=checkpoint).metrics
        trainer.save_model()
    if training_args.do_eval:
        metrics |= trainer.evaluate()
    if sparse_args.onnx_export_path is not None:
        trainer.export_onnx(
            *(sparse_args.onnx_export_path, sparse_args.onnx_target, sparse_args.onnx_opset, sparse_args.onnx_exporter)
        )
    if manager.recipe is not None:
        trainer.write_report(
            [sys.executable, *sys.argv], {"accuracy": "accuracy"}, metrics, onnx_folder=sparse_args.onnx_export_path
        )
    trainer.save_metrics("all", metrics)
    return metrics


if __name__ == "__main__":
    try:
        main()
    except SparsificationError as error:
        sys.exit(f"run_glue.py: error: {error}")
