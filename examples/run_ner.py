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
from transformers import (
    AutoConfig,
    AutoModelForTokenClassification,
    DataCollatorForTokenClassification,
    EvalPrediction,
)

from sparsification.tasks.script import TaskArguments, TaskRun, run_script
from sparsification.tasks.token_classification.data import IGNORED, find_column, read_words, tokenize
from sparsification.tasks.token_classification.metrics import entity_scores


@dataclass
class NerArguments(TaskArguments):
    """The model and the data."""

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


def make_compute_metrics(names: list[str], by_type: bool):
    """Make the function that turns logits, (sentences, tokens, labels), into entity scores."""

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        pairs = list(zip(np.argmax(prediction.predictions, axis=2), prediction.label_ids, strict=True))
        predicted = [[names[number] for number in own[labels != IGNORED]] for own, labels in pairs]
        true = [[names[number] for number in labels[labels != IGNORED]] for _, labels in pairs]
        return entity_scores(predicted, true, by_type)

    return compute_metrics


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train and evaluate a token classifier, and export it."""
    run = TaskRun.parse(NerArguments, argv)
    args = run.task
    splits = args.load_splits()
    words = find_column(splits, args.text_column_name, ("tokens", "words"), "words")
    tags = find_column(splits, args.label_column_name, ("ner_tags", "tags", "labels"), "tags")
    config = AutoConfig.from_pretrained(args.model_name_or_path, **args.hub_settings)
    splits, names = read_words(splits, words, tags, [config.id2label[number] for number in range(config.num_labels)])

    # Words come apart from each other: tokenizers of bytes (RoBERTa's) need to know that a blank was before each.
    tokenizer, model = run.load_model(AutoModelForTokenClassification, names, add_prefix_space=True)
    features = {
        split: tokenize(data, tokenizer, names, args.max_seq_length, args.label_all_tokens)
        for split, data in splits.items()
    }
    trainer = run.make_trainer(
        AutoModelForTokenClassification,
        model,
        tokenizer,
        features,
        data_collator=DataCollatorForTokenClassification(tokenizer, pad_to_multiple_of=8),
        compute_metrics=make_compute_metrics(names, args.return_entity_level_metrics),
    )
    return run.execute(trainer, {"accuracy": "accuracy", "f1": "entity F1"})


if __name__ == "__main__":
    run_script(main)
