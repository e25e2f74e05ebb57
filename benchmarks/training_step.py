"""What do masks, a teacher and fake quantization cost in a training step, against the plain Trainer?

    python -m benchmarks.training_step [--rounds 5] [--steps 6] [--shape minilm|bert-base] [--output FILE]

Random weights and tokens: speed does not depend on them. One thread. All variants take turns, a few steps each, round
after round; a step's cost is the processor time of this process from its begin to its end, which other programs on the
machine disturb least; the median over all steps of a variant counts.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path

import datasets
import torch
import transformers
from transformers import BertConfig, BertForQuestionAnswering, Trainer, TrainerCallback, TrainingArguments

from benchmarks.machine import cpu_name
from sparse_trainer import SparseTrainerMixin
from sparsification.manager import ScheduledModifierManager

ROOT = Path(__file__).resolve().parent.parent
SHAPES = {"minilm": (6, 384, 12, 1536), "bert-base": (12, 768, 12, 3072)}
BATCH, LENGTH, FEATURES = 8, 128, 256
WEIGHTS = "['re:bert\\.encoder\\.layer\\.\\d+\\..*(query|key|value|dense)\\.weight']"
PRUNED = f"""
pruning_modifiers:
  - !GMPruningModifier
    params: {WEIGHTS}
    init_sparsity: 0.8
    final_sparsity: 0.8
    start_epoch: 0.0
    end_epoch: 0.001
"""
UPDATED = f"""
pruning_modifiers:
  - !GMPruningModifier
    params: {WEIGHTS}
    init_sparsity: 0.0
    final_sparsity: 0.8
    start_epoch: 0.0
    end_epoch: 1000.0
    update_frequency: 0.03125
"""
DISTILLED = """
distillation_modifiers:
  - !DistillationModifier
    hardness: 1.0
    distill_output_keys: [start_logits, end_logits]
"""
QUANTIZED = """
quantization_modifiers:
  - !QuantizationModifier
    start_epoch: 0.0
    disable_quantization_observer_epoch: {frozen}
"""
BARS = {"masks": 1.01, "cached teacher": 1.03, "int8, observing": 1.4, "int8, frozen": 1.25}
# Name: recipe, whether the teacher's logits are kept, what is trained before the steps that count, bf16.
VARIANTS = {
    "plain Trainer": (None, False, False),
    "empty recipe": ("modifiers: []\n", False, False),
    "masks": (PRUNED, False, False),
    "masks, new in every step": (UPDATED, False, False),
    "live teacher": (DISTILLED, False, False),
    "cached teacher": (DISTILLED, True, False),
    "int8, observing": (QUANTIZED.format(frozen=1000.0), False, False),
    "int8, frozen": (QUANTIZED.format(frozen=0.01), False, False),
    "plain Trainer, bf16": (None, False, True),
}


class SparseTrainer(SparseTrainerMixin, Trainer):
    """The plain Trainer, by a recipe."""


class Clock(TrainerCallback):
    """Notes the processor time of each step."""

    def __init__(self):
        self.seconds: list[float] = []

    def on_step_begin(self, args, state, control, **kwargs):
        self._begun = time.process_time()

    def on_step_end(self, args, state, control, **kwargs):
        self.seconds.append(time.process_time() - self._begun)


def make_model(shape: str, seed: int = 0) -> BertForQuestionAnswering:
    """A BERT of a shape, with random weights and no dropout."""
    layers, hidden, heads, intermediate = SHAPES[shape]
    torch.manual_seed(seed)
    return BertForQuestionAnswering(
        BertConfig(
            num_hidden_layers=layers,
            hidden_size=hidden,
            num_attention_heads=heads,
            intermediate_size=intermediate,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def make_data() -> datasets.Dataset:
    """Random features without padding."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 30000, (FEATURES, LENGTH), generator=generator)
    spans = torch.randint(0, LENGTH, (FEATURES, 2), generator=generator).sort(dim=1).values
    return datasets.Dataset.from_dict(
        {
            "input_ids": ids.tolist(),
            "attention_mask": torch.ones_like(ids).tolist(),
            "start_positions": spans[:, 0].tolist(),
            "end_positions": spans[:, 1].tolist(),
        }
    )


def make_trainer(name: str, shape: str, folder: Path) -> tuple[Trainer, Clock]:
    """A trainer of one variant, and its clock."""
    recipe, cached, bf16 = VARIANTS[name]
    args = TrainingArguments(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1000,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=bf16,
    )
    more = {}
    if recipe is not None:
        more["manager"] = ScheduledModifierManager.from_yaml(recipe)
        more["teacher"] = make_model(shape, seed=1) if recipe == DISTILLED else None
        more["teacher_cache"] = folder / "cache" if cached else None
    clock = Clock()
    kind = Trainer if recipe is None else SparseTrainer
    trainer = kind(model=make_model(shape), args=args, train_dataset=make_data(), callbacks=[clock], **more)
    return trainer, clock


def run(trainer: Trainer, steps: int) -> None:
    """Train a few steps more."""
    trainer.args.max_steps = steps
    trainer.train()


def measure(shape: str, rounds: int, steps: int) -> dict[str, list[float]]:
    """Processor seconds of each step, by variant; the first two steps of a turn warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name in VARIANTS:
                trainer, clock = make_trainer(name, shape, Path(folder))
                if VARIANTS[name][1]:  # what is cached has been asked for in an epoch before
                    fill_cache(trainer)
                run(trainer, steps + 2)
                seconds[name] += clock.seconds[2:]
                print(f"{name}: {statistics.median(clock.seconds[2:]):.3f} s", flush=True)
    return seconds


def fill_cache(trainer: SparseTrainer) -> None:
    """Ask the teacher about every feature."""
    for batch in trainer.get_train_dataloader():
        rows = batch.pop("feature_row")
        with torch.no_grad():
            trainer._ask_teacher(batch, rows, trainer.teacher(**batch))


def page(shape: str, seconds: dict[str, list[float]]) -> str:
    """The result as Markdown."""
    plain = statistics.median(seconds["plain Trainer"])
    lines = [
        f"# A training step, {shape} shape",
        "",
        f"{date.today()}, one thread of {cpu_name()}; batch {BATCH}, {LENGTH} tokens; torch {torch.__version__}, "
        f"Transformers {transformers.__version__}. Medians of {len(seconds['plain Trainer'])} steps' processor time, "
        "all variants in turns. Made by `make bench-step`.",
        "",
        "| | seconds | against the plain Trainer | bar | |",
        "|---|---|---|---|---|",
    ]
    for name, values in seconds.items():
        ratio = statistics.median(values) / plain
        bar = BARS.get(name)
        verdict = "" if bar is None else "reached" if ratio <= bar else "missed"
        lines.append(f"| {name} | {statistics.median(values):.3f} | {ratio:.3f} | {bar or ''} | {verdict} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="that count, in each round")
    parser.add_argument("--shape", choices=SHAPES, default="minilm")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("sparse_trainer").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    output = args.output or ROOT / "benchmarks" / f"training_step_{args.shape}.md"
    seconds = measure(args.shape, args.rounds, args.steps)
    output.write_text(page(args.shape, seconds), encoding="utf-8")
    output.with_suffix(".json").write_text(json.dumps(seconds), encoding="utf-8")
    print(output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
