"""What do masks, a teacher and fake quantization cost in a training step, against the plain Trainer?

    python -m benchmarks.training_step [--rounds 30] [--shape minilm|bert-base] [--output FILE]

Random weights and tokens: speed does not depend on them. One thread. Each variant trains in a thread of its own and
waits for its turn: in each round, each takes one step, in an order drawn anew. A step goes from one begin to the next,
so it holds everything that Trainer does; its cost is the processor time of the process, which other programs on the
machine disturb least. What counts is the median over the rounds of the ratio to the plain Trainer's step of the same
round.
"""

import argparse
import json
import logging
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import datasets
import torch
import transformers
from transformers import BertConfig, BertForQuestionAnswering, Trainer, TrainerCallback, TrainingArguments

from sparsification.manager import ScheduledModifierManager
from sparsification.report.environment import cpu_name
from sparsification.report.tables import markdown
from sparsification.trainer.mixin import SparseTrainerMixin

ROOT = Path(__file__).resolve().parent.parent
SHAPES = {  # layers, hidden size, heads, intermediate size
    "minilm": (6, 384, 12, 1536),
    "bert-base, 6 layers": (6, 768, 12, 3072),
    "bert-base": (12, 768, 12, 3072),
    "bert-large": (24, 1024, 16, 4096),
}
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
COMPARED = """
distillation_modifiers:
  - !PerLayerDistillationModifier
    student_layer_names: ['re:bert\\.encoder\\.layer\\.\\d+$']
    ignore_padding: true
    cache_hidden_states: true
"""
QUANTIZED = """
quantization_modifiers:
  - !QuantizationModifier
    start_epoch: 0.0
    disable_quantization_observer_epoch: {frozen}
"""
SQUAD_STEPS = 5533  # of an epoch: 88,524 features of 384 tokens in batches of 16
WARM_UP = 3  # rounds that do not count
BARS = {"masks": 1.01, "cached teacher": 1.03, "int8, observing": 1.4, "int8, frozen": 1.25}
# Name: recipe, whether what the teacher computes is cached, more arguments of the Trainer.
VARIANTS = {
    "plain Trainer": (None, False, {}),
    "empty recipe": ("modifiers: []\n", False, {}),
    "masks": (PRUNED, False, {}),
    "masks, new in every step": (UPDATED, False, {}),
    "live teacher": (DISTILLED, False, {}),
    "cached teacher": (DISTILLED, True, {}),
    "live teacher, each layer": (COMPARED, False, {}),
    "cached teacher, each layer": (COMPARED, True, {}),
    "int8, observing": (QUANTIZED.format(frozen=1000.0), False, {}),
    "int8, frozen": (QUANTIZED.format(frozen=0.01), False, {}),
    "plain Trainer, bf16": (None, False, {"bf16": True}),
    "plain Trainer, compiled": (None, False, {"torch_compile": True}),
    "plain Trainer, bf16, compiled": (None, False, {"bf16": True, "torch_compile": True}),
}


class SparseTrainer(SparseTrainerMixin, Trainer):
    """The plain Trainer, by a recipe."""


class TimedManager(ScheduledModifierManager):
    """Notes the processor time that a recipe takes beside the model's own passes."""

    def __init__(self, *args):
        super().__init__(*args)
        self.seconds = 0.0

    def _timed(self, method, *args):
        begun = time.process_time()
        result = method(*args)
        self.seconds += time.process_time() - begun
        return result

    def update_loss(self, *args):
        return self._timed(super().update_loss, *args)

    def after_backward(self):
        self._timed(super().after_backward)

    def update(self, *args):
        self._timed(super().update, *args)

    def after_optimizer_step(self):
        self._timed(super().after_optimizer_step)


class Turns(TrainerCallback):
    """Lets a Trainer take one step, in its own thread, whenever it is told to, and notes what it cost."""

    def __init__(self, manager: TimedManager | None):
        self.manager = manager
        self.seconds: list[float] = []
        self.managing: list[float] = []
        self._go, self._done = threading.Semaphore(0), threading.Semaphore(0)
        self._begun: float | None = None

    def on_step_begin(self, args, state, control, **kwargs):
        if self._begun is not None:
            self.seconds.append(time.process_time() - self._begun)
            self.managing.append(self.manager.seconds if self.manager else 0.0)
        self._done.release()
        self._go.acquire()
        if self.manager:
            self.manager.seconds = 0.0
        self._begun = time.process_time()

    def take(self) -> None:
        """Wait for one step to be taken."""
        self._go.release()
        self._done.acquire()

    def start(self, trainer: Trainer) -> None:
        """Begin to train, up to the first step."""
        threading.Thread(target=self._train, args=(trainer,), daemon=True).start()
        self._done.acquire()

    @staticmethod
    def _train(trainer: Trainer) -> None:
        torch.set_num_threads(1)  # each thread has a number of its own
        trainer.train()


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


def make_trainer(name: str, shape: str, folder: Path) -> tuple[Trainer, Turns]:
    """A trainer of one variant, and who lets it take its turns."""
    recipe, cached, more_args = VARIANTS[name]
    args = TrainingArguments(
        output_dir=str(folder / "out"),
        per_device_train_batch_size=BATCH,
        num_train_epochs=1000,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        **more_args,
    )
    more = {}
    if recipe is not None:
        more["manager"] = TimedManager.from_yaml(recipe)
        more["teacher"] = make_model(shape, seed=1) if "Distillation" in recipe else None
        more["teacher_cache"] = folder / "cache" if cached else None
    turns = Turns(more.get("manager"))
    kind = Trainer if recipe is None else SparseTrainer
    trainer = kind(model=make_model(shape), args=args, train_dataset=make_data(), callbacks=[turns], **more)
    return trainer, turns


def measure(shape: str, rounds: int, names: Sequence[str]) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Processor seconds of each step, and those of them that the manager took, by variant."""
    turns = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            trainer, turns[name] = make_trainer(name, shape, Path(folder))
            if VARIANTS[name][1]:  # what is cached has been asked for in an epoch before
                fill_cache(trainer)
            turns[name].start(trainer)
        order = list(names)
        for number in range(WARM_UP + rounds):
            random.shuffle(order)
            for name in order:
                turns[name].take()
            last = {name: f"{turns[name].seconds[-1]:.2f}" for name in names}
            print(f"round {number - WARM_UP + 1} of {rounds}: {last}", flush=True)
    return tuple({name: getattr(turns[name], what)[WARM_UP:] for name in names} for what in ("seconds", "managing"))


def fill_cache(trainer: SparseTrainer) -> None:
    """Ask the teacher about every feature."""
    for batch in trainer.get_train_dataloader():
        rows, inputs = batch.pop("feature_row"), trainer._for_teacher(batch)
        with torch.no_grad():
            outputs = trainer.teacher(**inputs)
        trainer._teacher_outputs(trainer.teacher, inputs, rows, outputs, batch["attention_mask"])


def page(shape: str, seconds: dict[str, list[float]], managing: dict[str, list[float]]) -> str:
    """The result as Markdown."""
    plain = seconds["plain Trainer"]
    lines = [
        f"# A training step, {shape} shape",
        "",
        f"{date.today()}, one thread of {cpu_name()}; batch {BATCH}, {LENGTH} tokens; torch {torch.__version__}, "
        f"Transformers {transformers.__version__}. Processor time, medians of {len(plain)} rounds in which each "
        "variant takes one step; ratios are those within a round. Made by `make bench-step`.",
        "",
        "The last column was measured by itself: what the recipe's manager took, as a share of the plain step. It "
        "holds all that masks and a cached teacher cost, and is not touched by the noise between two steps.",
        "",
    ]
    rows = []
    for name, values in seconds.items():
        ratio = statistics.median(one / other for one, other in zip(values, plain, strict=True))
        bar = BARS.get(name)
        verdict = "" if bar is None else "reached" if ratio <= bar else "missed"
        share = statistics.median(managing[name]) / statistics.median(plain)
        median = statistics.median(values)
        rows.append([name, f"{median:.3f}", f"{ratio:.3f}", f"{bar or ''}", verdict, f"{share:.2%}"])
    lines.append(markdown((["", "seconds", "against the plain Trainer", "bar", "", "manager"], rows)))
    if {"masks", "masks, new in every step"} <= set(managing):
        held, new = (
            statistics.median(managing[name]) / statistics.median(plain)
            for name in ("masks", "masks, new in every step")
        )
        updates, held_steps, steps = 1801, 28 * SQUAD_STEPS, 30 * SQUAD_STEPS
        whole = 1 + (held * held_steps + (new - held) * updates) / steps
        lines += [
            "",
            f"A whole run of prune80 on SQuAD (30 epochs of {SQUAD_STEPS} steps; masks from epoch 2, new ones every "
            f"0.01 epochs until 20) follows from it: {whole:.4f}x of a run without masks (bar 1.03).",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="the plain one first")
    parser.add_argument("--shape", choices=SHAPES, default="minilm")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("sparse_trainer").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    output = args.output or ROOT / "benchmarks" / f"training_step_{args.shape}.md"
    seconds, managing = measure(args.shape, args.rounds, args.variants)
    output.write_text(page(args.shape, seconds, managing), encoding="utf-8")
    output.with_suffix(".json").write_text(json.dumps({"seconds": seconds, "manager": managing}), encoding="utf-8")
    print(output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
