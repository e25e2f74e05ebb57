#!/usr/bin/env python
r"""Prune a model of sentence embeddings by a recipe, so that it keeps its embeddings: on raw text, without labels.

    python examples/run_embedding.py --model_name_or_path sentence-transformers/all-MiniLM-L6-v2 --one_shot --do_eval \
        --train_file texts.txt --retrieval_file questions.csv --recipe recipes/minilm-embedding_reconstruct50.md \
        --onnx_export_path out/onnx --output_dir out

    python examples/run_embedding.py --model_name_or_path sentence-transformers/all-MiniLM-L6-v2 --do_train --do_eval \
        --train_file pairs.csv --validation_file texts.txt --recipe recipe.yaml --output_dir out

Files are text (.txt, one text on a line), CSV, JSON, JSON lines or parquet. The model learns the embeddings of the
dense model, or of ``--distill_teacher``: the loss is 1 - cosine. Columns ``anchor``, ``positive`` and perhaps
``negative`` add a ranking loss. ``--retrieval_file`` has a column of questions, and one of the texts that answer them.
``SentenceTransformer("out")`` loads the model, and with ``backend="onnx"`` the export.
"""

import functools
from dataclasses import dataclass, field

from datasets import Dataset, concatenate_datasets
from transformers import AutoModel, DataCollatorWithPadding, EvalPrediction

from sparsification.arguments import teacher_cache_dir
from sparsification.tasks.arguments import TaskArguments, load_file
from sparsification.tasks.embedding.data import make_encode, retrieval_texts, text_columns, without_blanks
from sparsification.tasks.embedding.metrics import mean_cosine, retrieval_scores
from sparsification.tasks.embedding.modules import load_modules
from sparsification.tasks.embedding.trainer import EmbeddingTrainer, add_targets, collate_texts
from sparsification.tasks.errors import UsageError
from sparsification.tasks.script import TaskRun, run_script


@dataclass
class EmbeddingArguments(TaskArguments):
    """The model and the data."""

    max_seq_length: int = field(default=256, metadata={"help": "Maximum number of tokens, at most the model's own."})
    text_column_names: str | None = field(
        default=None, metadata={"help": "Column of training texts, or those of pairs or triplets: a,b,c."}
    )
    ranking_share: float = field(
        default=0.5, metadata={"help": "Share of the ranking loss in the loss of pairs and triplets, in [0, 1]."}
    )
    retrieval_file: str | None = field(
        default=None, metadata={"help": "Questions and the texts that answer them, for MRR@10 and recall@10."}
    )

    def __post_init__(self) -> None:
        """Check these arguments by themselves."""
        if not 0 <= self.ranking_share <= 1:
            raise ValueError(f"--ranking_share must be in [0, 1], got {self.ranking_share}")


def main(argv: list[str] | None = None) -> dict[str, float]:
    """Train a model of embeddings, or apply a recipe in one shot; evaluate and export it."""
    run = TaskRun.parse(EmbeddingArguments, argv)
    args, training = run.task, run.training
    if training.do_predict:
        raise UsageError("--do_predict: for the embeddings of a file use the command 'sparsification predict'")
    tokenizer, model = args.load_model(AutoModel, args.load_config())
    modules = load_modules(args.model_name_or_path, args.cache_dir, args.token, args.model_revision)
    settings = args.tokenizer_settings(tokenizer, modules.max_length)
    splits = args.load_splits(required=args.retrieval_file is None)
    named = args.text_column_names.split(",") if args.text_column_names else None

    def encoded(data: Dataset, columns: list[str]) -> Dataset:
        return run.make_features(without_blanks(data, columns), make_encode(tokenizer, columns, settings))

    features, columns = {}, ["text"]
    if "train" in splits:
        columns = text_columns(splits["train"], named)
        features["train"] = encoded(splits["train"], columns)
    evaluated = []
    if "validation" in splits:
        evaluated.append(encoded(splits["validation"], text_columns(splits["validation"], count=1)))
    queries, texts, right = [], [], None
    if args.retrieval_file is not None:
        pairs = load_file(args.retrieval_file, args.cache_dir)
        pair_columns = text_columns(pairs, count=2)
        queries, texts, right = retrieval_texts(without_blanks(pairs, pair_columns), pair_columns)
        evaluated.append(encoded(Dataset.from_dict({"text": [*queries, *texts]}), ["text"]))

    run.sparse.distill_teacher = run.sparse.distill_teacher or "self"
    teacher = run.load_teacher(AutoModel, model, tokenizer, needed=True)
    if teacher is None:
        raise UsageError(
            "--distill_teacher disable: embeddings need a teacher; without the flag it is the model itself"
        )
    teacher.to(training.device)
    collate = functools.partial(collate_texts, DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8))

    def with_targets(rows: Dataset) -> Dataset:
        cache = teacher_cache_dir(run.sparse, args.cache_dir)
        with training.main_process_first(desc="the teacher's embeddings"):
            return add_targets(rows, teacher, modules, collate, cache)

    if training.do_train and not run.sparse.one_shot and "train" in features:
        features["train"] = with_targets(features["train"])
    if training.do_eval and evaluated:
        features["validation"] = with_targets(concatenate_datasets(evaluated))

    def compute_metrics(output: EvalPrediction) -> dict[str, float]:
        own, target = output.predictions, output.label_ids
        scores = {"cosine": mean_cosine(own, target)}
        if right is not None:
            found = own[len(own) - len(texts) - len(queries) :]
            scores |= retrieval_scores(found[: len(queries)], found[len(queries) :], right)
        return scores

    labels = {"cosine": "cosine to the teacher"}
    labels |= {} if right is None else {"recall_at_10": "recall@10", "mrr_at_10": "MRR@10"}
    training.label_names = ["labels"]
    trainer = run.make_trainer(
        model,
        tokenizer,
        features,
        teacher,
        EmbeddingTrainer,
        modules=modules,
        texts_per_row=len(columns),
        ranking_share=args.ranking_share if len(columns) > 1 else 0.0,
        data_collator=collate,
        compute_metrics=compute_metrics,
    )
    return run.execute(trainer, labels, "sentence-similarity")


if __name__ == "__main__":
    run_script(main)
