"""Study of sentence embeddings: what pruning costs in the retrieval of real paragraphs.

    python -m benchmarks.embedding --data DIR --work_dir DIR [--runs NAME ...]

DIR holds ``newwiki-train.json`` and ``newwiki-validation.json``: the New Wikipedia set of SQuADShifts (Miller, Krauth,
Recht, Schmidt 2020; CC BY 4.0). 1,289 questions are to find their paragraphs among the 262 of the validation part.
Models are calibrated and trained on the 1,319 paragraphs of the training part, which are of other articles; some runs
also on its questions, as texts alone: nothing says which paragraph answers one. The model, and what is kept and
resumed: ``benchmarks/study.py``. Results are in ``embedding.json``.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks import study
from benchmarks.accuracy import questions
from benchmarks.plan_rivals import measured_speedup
from benchmarks.study import RATE, ROOT, SPARSE_FILE, file_flags, how, interval, mean, run_study, start_model, when
from sparsification.atomic_io import atomic_write_text
from sparsification.quantization.checkpoint import load_quantization
from sparsification.report.tables import markdown
from sparsification.tasks.embedding.metrics import normalized
from sparsification.tasks.embedding.modules import load_modules

RESULTS, PAGE = (ROOT / "benchmarks" / name for name in ("embedding.json", "embedding.md"))
HEADS = [
    *("run", "epochs", "sparsity", "MRR@10, PyTorch", "MRR@10, ONNX Runtime", "share of the dense MRR", "interval"),
    *("recall@10", "cosine to the dense embeddings", "file", "times as fast as fp32", "minutes", "processor minutes"),
]


@dataclass(frozen=True)
class Run(study.Run):
    """A command of run_embedding.py."""

    one_shot: bool = True
    texts: str = "paragraphs"  # or "paragraphs_and_questions"


BOTH = "paragraphs_and_questions"  # that are embedded later


def _one_shot(variables: str) -> Run:
    return Run("minilm-embedding_reconstruct50", variables, texts=BOTH)


def _trained(variables: str) -> Run:
    return Run("minilm-embedding_prune80", variables, flags=RATE, one_shot=False, texts=BOTH)


def _in_int8(start: str) -> Run:
    return Run("quantize", start=start, flags=SPARSE_FILE, texts=BOTH)


RUNS: dict[str, Run] = {
    "dense": Run(),
    "reconstruct50": Run("minilm-embedding_reconstruct50", "num_samples=128,allocation=uniform"),
    "magnitude50": Run("prune80", "sparsity=0.5"),
    "reconstruct50_questions": _one_shot("num_samples=512,allocation=uniform"),
    "reconstruct80_questions": _one_shot("num_samples=512,sparsity=0.8,allocation=uniform"),
    "reconstruct50_by_error": _one_shot("num_samples=512,allocation=error"),
    "reconstruct80_by_error": _one_shot("num_samples=512,sparsity=0.8,allocation=error"),
    "reconstruct60": Run("minilm-embedding_reconstruct50", "num_samples=128,sparsity=0.6"),
    "reconstruct70": Run("minilm-embedding_reconstruct50", "num_samples=128,sparsity=0.7"),
    "reconstruct80": Run("minilm-embedding_reconstruct50", "num_samples=128,sparsity=0.8"),
    "reconstruct50_int8": Run("one-shot_reconstruct50_int8"),
    "prune80": _trained("num_epochs=3,cache_hidden_states=true"),
    "prune80_int8": _in_int8("prune80"),
    "prune90": _trained("num_epochs=3,sparsity=0.9,cache_hidden_states=true"),
    "prune80_block4": _trained('{"num_epochs": 3, "mask_type": [1, 4], "num_samples": 128}'),
    "prune80_block4_int8": _in_int8("prune80_block4"),
    "prune80_block4_10epochs": _trained('{"num_epochs": 10, "mask_type": [1, 4], "cache_hidden_states": true}'),
    "prune80_block4_10epochs_int8": _in_int8("prune80_block4_10epochs"),
}
ONE_SHOT = [name for name, run in RUNS.items() if run.one_shot and not run.start]


def main() -> None:
    """Do the runs that have not been done, and write the page."""
    run_study(__doc__, "newwiki-train.json and newwiki-validation.json", Study, RUNS, ONE_SHOT)


class Study(study.Study):
    """Runs of run_embedding.py."""

    script, runs, results_file, page_file = "examples/run_embedding.py", RUNS, RESULTS, PAGE

    def __init__(self, data: Path, work: Path) -> None:
        super().__init__(work)
        self.pairs = work / "questions.csv"
        write_data(data, work, self.pairs)

    def flags(self, name: str, output: Path) -> list[str]:
        """The teacher is the dense model."""
        files = {"train_file": self.work / f"{RUNS[name].texts}.txt", "retrieval_file": self.pairs}
        files |= {"distill_teacher": start_model(self.work), "onnx_export_path": output / "onnx"}
        return file_flags(files)

    def measure(self, name: str, folder: Path) -> dict:
        """Collect the figures of a run."""
        own = self.scores(folder)
        return {
            **self.figures(name, folder),
            **{key: value for key, value in own.items() if key.endswith(("cosine", "mrr_at_10", "recall_at_10"))},
            "reciprocal_ranks": reciprocal_ranks(self.weights(name), self.pairs),
            "speedup": measured_speedup(self.model(start), folder) if (start := RUNS[name].start) else None,
        }

    def write_page(self) -> None:
        """Write the page."""
        atomic_write_text(PAGE, page(self.results))


def write_data(data: Path, work: Path, pairs: Path) -> None:
    """Write the texts to train on, one on a line, and the questions to evaluate on with their paragraphs."""
    train = list(questions(data / "newwiki-train.json"))
    found = {"paragraphs": [context for _, context in train]}
    found["paragraphs_and_questions"] = found["paragraphs"] + [question["question"] for question, _ in train]
    for name, texts in found.items():
        lines = dict.fromkeys(" ".join(text.split()) for text in texts)
        atomic_write_text(work / f"{name}.txt", "".join(f"{line}\n" for line in lines))
    with pairs.open("w", newline="", encoding="utf-8") as file:
        rows = [(question["question"], context) for question, context in questions(data / "newwiki-validation.json")]
        csv.writer(file).writerows([("question", "paragraph"), *rows])


@torch.inference_mode()
def reciprocal_ranks(folder: Path, pairs: Path) -> list[float]:
    """1 / rank of the right paragraph of each question in PyTorch, 0 from the eleventh on."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    load_quantization(model, folder)
    modules = load_modules(folder)
    with pairs.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    paragraphs = list(dict.fromkeys(row["paragraph"] for row in rows))

    def embed(texts: list[str]) -> np.ndarray:
        found = []
        for first in range(0, len(texts), 32):
            batch = tokenizer(
                [text.strip() for text in texts[first : first + 32]],
                **{"truncation": True, "max_length": modules.max_length, "padding": True, "return_tensors": "pt"},
            )
            found.append(modules.embed(model(**batch).last_hidden_state, batch["attention_mask"]).numpy())
        return normalized(np.concatenate(found))

    scores = embed([row["question"] for row in rows]) @ embed(paragraphs).T
    right = np.array([paragraphs.index(row["paragraph"]) for row in rows])
    ranks = 1 + (scores > scores[np.arange(len(rows)), right][:, None]).sum(axis=1)
    return np.where(ranks <= 10, 1 / ranks, 0.0).round(4).tolist()


def page(results: Mapping[str, dict]) -> str:
    """Write the page.

    Args:
        results: figures of the runs by name; with those of the dense model.
    """
    dense = results["dense"]
    lines = [
        "# Sentence embeddings: all-MiniLM-L6-v2 on paragraphs of New Wikipedia",
        "",
        f"{when(results)} Made by `make embedding-study`. 1,289 questions search 262 paragraphs. Models are calibrated "
        "and trained on 1,319 paragraphs of other articles, or on these and 6,649 questions as texts alone. The share "
        "is that of the dense model's MRR@10; the interval has 95 % of 10,000 paired bootstrap samples over questions. "
        "Times as fast: `model.sparse.onnx`, one text of 128 tokens, one thread. Minutes are those of the whole "
        "command, with features, evaluation and export; processor minutes are disturbed less by other work.",
        "",
    ]
    rows = []
    ranks = np.array(dense["reciprocal_ranks"])
    for name, run in results.items():
        low, high = interval(np.array(run["reciprocal_ranks"]), ranks)
        speed = f"{run['speedup']:.1f}x" if run.get("speedup") else ""
        sparse = f", sparse {run['eval_onnx_sparse_mrr_at_10']:.1%}" if "eval_onnx_sparse_mrr_at_10" in run else ""
        rows.append(
            [
                *(name, f"{run['epochs']:g}", f"{mean(run['sparsity']):.1%}", f"{run['eval_mrr_at_10']:.1%}"),
                f"{run['eval_onnx_mrr_at_10']:.1%}{sparse}",
                f"{run['eval_mrr_at_10'] / dense['eval_mrr_at_10']:.1%}",
                *(f"{low:.1%} to {high:.1%}", f"{run['eval_recall_at_10']:.1%}", f"{run['eval_cosine']:.3f}"),
                *(f"{run['megabytes']:.1f} MB", speed, f"{run['minutes']:.1f}", f"{run['cpu_minutes']:.1f}"),
            ]
        )
    lines += [markdown((HEADS, rows)), "", "## How each was run", ""]
    lines += [f"- {name}: {how(run)}" for name, run in results.items()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
