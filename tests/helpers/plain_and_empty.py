"""The plain Trainer and ours beside each other, for five tasks; under torchrun on each process.

torchrun --nproc_per_node 2 tests/helpers/plain_and_empty.py FOLDER
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import (
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2LMHeadModel,
    ModernBertConfig,
    ModernBertForMaskedLM,
    Trainer,
    TrainingArguments,
)

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from sparsification.manager import ScheduledModifierManager
from sparsification.trainer.mixin import SparseTrainerMixin

EMPTY = "modifiers: []\n"
WORDS, LENGTH, CLASSES = 40, 10, 3
SHAPE = {"vocab_size": WORDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BERT = SHAPE | {"intermediate_size": 32, "max_position_embeddings": LENGTH, "num_labels": CLASSES}


def label_some(row: dict, chance: torch.Generator) -> dict:
    """Labels of a language model: some words of a row, another number in each, and at least one."""
    kept = torch.rand(LENGTH, generator=chance) < torch.rand(1, generator=chance)
    kept[0], kept[3] = False, True  # a causal model predicts no first word, but Trainer counts GPT-2's
    return row | {"labels": torch.where(kept, row["input_ids"], -100)}


TASKS: dict[str, tuple[Callable[[], nn.Module], Callable[[dict, torch.Generator], dict]]] = {
    "question-answering": (
        lambda: BertForQuestionAnswering(BertConfig(**BERT | {"num_labels": 2})),
        lambda row, chance: row | {"start_positions": row["input_ids"][0] % 5, "end_positions": torch.tensor(7)},
    ),
    "sequence-classification": (
        lambda: BertForSequenceClassification(BertConfig(**BERT)),
        lambda row, chance: row | {"labels": row["input_ids"][1] % CLASSES},
    ),
    "token-classification": (
        lambda: BertForTokenClassification(BertConfig(**BERT)),
        lambda row, chance: row | {"labels": row["input_ids"] % CLASSES},
    ),
    "masked-language-model": (
        lambda: ModernBertForMaskedLM(
            ModernBertConfig(**SHAPE, intermediate_size=32, pad_token_id=0, attn_implementation="eager")
        ),
        label_some,
    ),
    "causal-language-model": (
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_positions=LENGTH, n_embd=16, n_layer=2, n_head=2)),
        label_some,
    ),
}


class SparseTrainer(SparseTrainerMixin, Trainer):
    pass


def make_model(task: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return TASKS[task][0]()


def make_data(task: str, count: int = 32) -> list[dict[str, torch.Tensor]]:
    chance = torch.Generator().manual_seed(1)
    rows = [{"input_ids": torch.randint(1, WORDS, (LENGTH,), generator=chance)} for _ in range(count)]
    return [TASKS[task][1](row | {"attention_mask": torch.ones(LENGTH).long()}, chance) for row in rows]


def train(folder: Path, task: str, trainer_class: type[Trainer], more: dict, **settings) -> Trainer:
    """Train a tiny model of a task for two epochs."""
    arguments = {"num_train_epochs": 2, "learning_rate": 0.01, "logging_steps": 1, "save_strategy": "no", "seed": 3}
    arguments |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True}
    trainer = trainer_class(
        model=make_model(task),
        args=TrainingArguments(output_dir=str(folder), **arguments | settings),
        train_dataset=make_data(task),
        **more,
    )
    trainer.train()
    return trainer


def assert_equal_runs(folder: Path, task: str, accumulation: int, recipes: Sequence[str | None]) -> None:
    """Train with the plain Trainer and, by each recipe, with ours; compare weights and logged losses bit by bit."""
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": accumulation}
    plain = train(folder, task, Trainer, {}, **settings)
    start = make_model(task).state_dict()
    theirs = plain.accelerator.unwrap_model(plain.model).state_dict()
    assert any(not torch.equal(weight, start[name]) for name, weight in theirs.items())
    keys = ("loss", "grad_norm", "learning_rate", "epoch", "step")
    for recipe in recipes:
        manager = ScheduledModifierManager.from_yaml(recipe) if recipe is not None else None
        ours = train(folder, task, SparseTrainer, {"manager": manager}, **settings)
        for name, weight in ours.accelerator.unwrap_model(ours.model).state_dict().items():
            assert torch.equal(weight, theirs[name]), f"{task}, {accumulation} accumulated, {recipe}: {name}"
        logs = [[[row.get(key) for key in keys] for row in run.state.log_history] for run in (plain, ours)]
        assert logs[0] == logs[1], f"{task}, {accumulation} accumulated, {recipe}"


DISTILL = """
modifiers:
  - !DistillationModifier {hardness: 0.25, temperature: 2.0, start_epoch: 0.0}
"""
RATE = 0.1


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def make_step(task: str) -> list[dict[str, torch.Tensor]]:
    """Eight rows. Of a language model's first one no word is masked."""
    rows = make_data(task, 8)
    if task.endswith("language-model"):
        rows[0]["labels"].fill_(-100)
    return rows


def weights_after_one_step(task: str) -> dict[str, torch.Tensor]:
    """Descend by the mixed loss of eight rows at once: means over all labels, and over all rows or positions."""
    student, teacher = without_dropout(make_model(task)), make_model(task, seed=9).eval()
    rows = make_step(task)
    batch = {key: torch.stack([row[key] for row in rows]) for key in rows[0]}
    outputs = student(**batch)  # without a number of labels: their mean
    with torch.no_grad():
        targets = teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    keys = ("start_logits", "end_logits") if task == "question-answering" else ("logits",)
    soft = [
        4 * (targets[key] / 2).softmax(-1) * ((targets[key] / 2).log_softmax(-1) - (outputs[key] / 2).log_softmax(-1))
        for key in keys
    ]
    loss = 0.75 * outputs.loss + 0.25 * sum(part.sum(-1).mean() for part in soft) / len(keys)
    parameters = dict(student.named_parameters())
    gradients = torch.autograd.grad(loss, parameters.values(), allow_unused=True, materialize_grads=True)
    pairs = zip(parameters.items(), gradients, strict=True)
    return {name: (weight - RATE * gradient).detach() for (name, weight), gradient in pairs}


def assert_mixed_loss_has_its_scale(folder: Path, task: str, accumulation: int, processes: int) -> None:
    """Distill one step of eight rows, in batches of as many processes, and compare with the closed form."""
    trainer = SparseTrainer(
        model=without_dropout(make_model(task)),
        args=TrainingArguments(
            output_dir=str(folder),
            per_device_train_batch_size=8 // accumulation // processes,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            learning_rate=RATE,
            optim="sgd",
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=make_step(task),
        manager=ScheduledModifierManager.from_yaml(DISTILL),
        teacher=make_model(task, seed=9),
    )
    trainer.train()
    expected = weights_after_one_step(task)
    for name, weight in trainer.accelerator.unwrap_model(trainer.model).named_parameters():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6, msg=lambda text: f"{task}: {text}")


if __name__ == "__main__":
    for name in TASKS:
        for batches in (1, 4):
            assert_equal_runs(Path(sys.argv[1]), name, batches, [EMPTY])
            assert_mixed_loss_has_its_scale(Path(sys.argv[1]), name, batches, processes=2)
            print(f"equal: {name} {batches} {torch.distributed.get_world_size()}")
