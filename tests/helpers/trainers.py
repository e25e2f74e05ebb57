"""Trainers of a three-layer BERT with 24 steps of made-up spans."""

from pathlib import Path

import datasets
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BertConfig, BertForQuestionAnswering, Trainer, TrainingArguments

from sparsification.manager import ScheduledModifierManager
from sparsification.trainer.mixin import SparseTrainerMixin


class SparseTrainer(SparseTrainerMixin, Trainer):
    pass


def make_model(seed: int = 0, layers: int = 3, vocab_size: int = 50, hidden: int = 16) -> BertForQuestionAnswering:
    torch.manual_seed(seed)
    return BertForQuestionAnswering(
        BertConfig(
            vocab_size=vocab_size,
            hidden_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
    )


def make_data(count: int = 32) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(1, 50, (count, 12), generator=generator)
    spans = torch.randint(0, 12, (count, 2), generator=generator)
    return [
        {
            "input_ids": row,
            "attention_mask": torch.ones_like(row),
            "start_positions": span.min(),
            "end_positions": span.max(),
        }
        for row, span in zip(ids, spans, strict=True)
    ]


def ragged_data() -> datasets.Dataset:
    """Features of 5 to 12 tokens."""
    rows = [{name: value.tolist() for name, value in row.items()} for row in make_data()]
    for number, row in enumerate(rows):
        length = 5 + number % 8
        row |= {name: row[name][:length] for name in ("input_ids", "attention_mask")}
        row |= {"start_positions": row["start_positions"] % length, "end_positions": row["end_positions"] % length}
    return datasets.Dataset.from_list(rows)


def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
    """Pad to the longest row of the batch."""
    columns = {name: [torch.as_tensor(row[name]) for row in rows] for name in rows[0]}
    batch = {name: pad_sequence([x.flatten() for x in values], True) for name, values in columns.items()}
    return {name: values if columns[name][0].dim() else values[:, 0] for name, values in batch.items()}


def arguments(output_dir: Path, **changes) -> TrainingArguments:
    settings = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 3,
        "learning_rate": 5e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "disable_tqdm": True,
        "seed": 3,
    }
    return TrainingArguments(output_dir=str(output_dir), **(settings | changes))


def make_trainer(output_dir, recipe: str | None, trainer_class=SparseTrainer, eval_dataset=None, **changes):
    model = make_model()
    extra = {"eval_dataset": eval_dataset}
    if trainer_class is SparseTrainer:
        extra["manager"] = ScheduledModifierManager.from_yaml(recipe) if recipe is not None else None
        wide = 24 if recipe and "PerLayer" in recipe else 16
        extra["teacher"] = make_model(seed=9, hidden=wide) if recipe and "Distillation" in recipe else None
    return trainer_class(model=model, args=arguments(output_dir, **changes), train_dataset=make_data(), **extra)


def losses(trainer: Trainer) -> list[tuple]:
    # Changes of masks are counted in dropped layers, too, whose weights no checkpoint holds.
    left_out = ("grad_norm", "GMPruningModifier/mask_changes")
    return [
        tuple((key, entry[key]) for key in sorted(entry) if key not in left_out)
        for entry in trainer.state.log_history
        if "loss" in entry
    ]


def assert_same_model(one: torch.nn.Module, other: torch.nn.Module) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert list(first) == list(second)
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
