#!/usr/bin/env python
r"""Train a token classifier, e.g. for named entities, with a recipe: the flags of Transformers' script, and ours.

    python examples/run_ner.py --model_name_or_path bert-base-cased --train_file train.json \
        --validation_file validation.json --do_train --do_eval --recipe recipe.yaml --distill_teacher teacher \
        --onnx_export_path out/onnx --output_dir out

    python examples/run_ner.py --model_name_or_path out --validation_file test.csv --do_eval --output_dir scores

JSON files hold one object for each sentence: {"tokens": ["Ada", "Lovelace"], "ner_tags": ["B-PER", "I-PER"]}. In a CSV
file both columns are such lists, or texts whose parts are separated by blanks. Scores are those of whole entities
(CoNLL-2003, as the package seqeval computes them), and the accuracy of the words' tags.
"""

from dataclasses import dataclass, field

import numpy as np
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, EvalPrediction
from transformers.trainer_utils import PredictionOutput

from sparsification.tasks.arguments import TaskArguments
from sparsification.tasks.script import Predictions, TaskRun, run_script
from sparsification.tasks.token_classification.data import IGNORED, find_column, make_encode, read_words
from sparsification.tasks.token_classification.metrics import entity_scores


@dataclass
class NerArguments(TaskArguments):
    """The model and the data."""

    task_name: str = field(default="ner", metadata={"help": "Name of the task: the tags are in <task_name>_tags."})
    text_column_name: str | None = field(default=None, metadata={"help": "Column of words. Default: tokens or words."})
    label_column_name: str | None = field(
        default=None, metadata={"help": "Column of tags. Default: ner_tags, tags or labels."}
    )
    label_all_tokens: bool = field(
        default=False, metadata={"help": "Label all tokens of a word, not its first one alone."}
    )
    return_entity_level_metrics: bool = field(
        default=False, metadata={"help": "Also return the scores of each type of entity."}
    )


def tags_of(output: EvalPrediction | PredictionOutput, names: list[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Predicted and true tags of each sentence, from logits (sentences, tokens, labels) and label numbers."""
    pairs = list(zip(np.argmax(output.predictions, axis=2), output.label_ids, strict=True))
    predicted = [[names[number] for number in own[labels != IGNORED]] for own, labels in pairs]
    true = [[names[number] for number in labels[labels != IGNORED]] for _, labels in pairs]
    return predicted, true


def make_compute_metrics(names: list[str], by_type: bool):
    """Make the function that scores the entities of an evaluation."""
    return lambda output: entity_scores(*tags_of(output, names), by_type)


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train and evaluate a token classifier, and export it."""
    run = TaskRun.parse(NerArguments, argv)
    args = run.task
    splits = args.load_splits()
    words = find_column(splits, args.text_column_name, ("tokens", "words"), "words")
    tags = find_column(splits, args.label_column_name, (f"{args.task_name}_tags", "tags", "labels"), "tags")
    config = args.load_config()
    splits, names = read_words(splits, words, tags, [config.id2label[number] for number in range(config.num_labels)])
    config.id2label, config.label2id = dict(enumerate(names)), {name: number for number, name in enumerate(names)}

    # Words come apart from each other: tokenizers of bytes (RoBERTa's) need to know that a blank was before each.
    tokenizer, model = args.load_model(AutoModelForTokenClassification, config, add_prefix_space=True)
    encode = make_encode(tokenizer, names, args.tokenizer_settings(tokenizer), args.label_all_tokens)
    features = {split: run.make_features(data, encode) for split, data in splits.items()}
    trainer = run.make_trainer(
        model,
        tokenizer,
        features,
        run.load_teacher(AutoModelForTokenClassification, model, tokenizer),
        data_collator=DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=8),
        compute_metrics=make_compute_metrics(names, args.return_entity_level_metrics),
    )
    predictions = Predictions(
        features.get("test"), "predictions.txt", lambda output: map(" ".join, tags_of(output, names)[0])
    )
    return run.execute(trainer, {"accuracy": "accuracy", "f1": "entity F1"}, "token-classification", [predictions])


if __name__ == "__main__":
    run_script(main)
