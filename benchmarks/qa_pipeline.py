r"""What do features, answer spans, an evaluation and a start cost, beside the well-known Python loops?

    python -m benchmarks.qa_pipeline

Questions, contexts and the tokenizer are made up here, in SQuAD's proportions: five questions about each context, 120
to 250 words a context and a few of more than 600. What is compared takes turns, in CPU time, and medians count, because
a machine is seldom alone. The loops below say in plain Python what the well-known script does with every feature.
"""

import argparse
import collections
import datetime
import gc
import importlib.metadata
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import torch
from datasets import Dataset
from transformers import (
    BertTokenizerFast,
    EvalPrediction,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    default_data_collator,
)

from sparsification.report.environment import cpu_name
from sparsification.report.tables import markdown
from sparsification.tasks.question_answering.answers import postprocess_qa_predictions
from sparsification.tasks.question_answering.data import load_squad_files
from sparsification.tasks.question_answering.features import prepare_train_features, prepare_validation_features
from sparsification.tasks.question_answering.trainer import QuestionAnsweringTrainer

ROOT = Path(__file__).resolve().parent.parent
LENGTH, STRIDE, N_BEST, LONGEST = 384, 128, 20, 30
QUESTIONS_PER_CONTEXT = 5

# ---------------------------------------------------------------------------------------------------------------------
# Data


def made_up_words(count: int, seed: int = 1) -> list[str]:
    """Words of one to four syllables, the frequent ones first."""
    rng = random.Random(seed)
    syllables = [c + v + end for c in "bcdfghlmnprstv" for v in "aeiou" for end in ("", "n", "r", "s")]
    words: set[str] = set()
    while len(words) < count:
        words.add("".join(rng.choices(syllables, k=rng.choice((1, 2, 2, 3, 3, 4)))))
    return sorted(words, key=lambda word: (len(word), rng.random()))


def build_tokenizer(words: list[str]) -> PreTrainedTokenizerBase:
    """A WordPiece tokenizer that knows the first 4000 words whole, and the others by their pieces."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,?", *words[:4000]]
    pieces = dict.fromkeys([*"abcdefghijklmnopqrstuvwxyz", *words[:300]])
    vocabulary = list(dict.fromkeys([*vocabulary, *(mark + piece for piece in pieces for mark in ("", "##"))]))
    return BertTokenizerFast(
        vocab={token: number for number, token in enumerate(vocabulary)}, do_lower_case=True, model_max_length=512
    )


def make_examples(questions: int, words: list[str], per_context: int = QUESTIONS_PER_CONTEXT, seed: int = 2) -> dict:
    """Columns of SQuAD-like questions; every answer stands in its context."""
    rng = random.Random(seed)
    weights = [1 / (rank + 20) for rank in range(len(words))]
    columns: dict[str, list] = {name: [] for name in ("id", "title", "context", "question", "answers")}
    while len(columns["id"]) < questions:
        length = rng.randint(600, 700) if rng.random() < 0.02 else rng.randint(120, 250)
        told = rng.choices(words, weights, k=length)
        marks = rng.choices([" ", ", ", ". "], [85, 8, 7], k=length)
        context = "".join(map(str.__add__, told, marks)).rstrip()
        starts = np.cumsum([0, *(len(word) + len(mark) for word, mark in zip(told, marks, strict=True))]).tolist()
        for _ in range(per_context):
            first = rng.randrange(length)
            last = min(first + rng.randrange(4), length - 1)
            start = starts[first]
            asked = " ".join(rng.choices(words, weights, k=rng.randint(7, 13)))
            columns["id"].append(f"question-{len(columns['id'])}")
            columns["title"].append("")
            columns["context"].append(context)
            columns["question"].append(f"{asked.capitalize()}?")
            columns["answers"].append(
                {"text": [context[start : starts[last] + len(told[last])]], "answer_start": [start]}
            )
    return {name: column[:questions] for name, column in columns.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The well-known loops


def plain_train_features(examples: dict, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Label one feature after the other, walking from the window's ends to the answer's."""
    features = plain_windows(examples, tokenizer)
    offset_mapping, owners = features.pop("offset_mapping"), features.pop("overflow_to_sample_mapping")
    features["start_positions"], features["end_positions"] = [], []
    for number, offsets in enumerate(offset_mapping):
        cls = features["input_ids"][number].index(tokenizer.cls_token_id)
        sequences = features.sequence_ids(number)
        answers = examples["answers"][owners[number]]
        start, end = cls, cls
        if answers["answer_start"]:
            start_char = answers["answer_start"][0]
            end_char = start_char + len(answers["text"][0])
            first = 0
            while sequences[first] != 1:
                first += 1
            last = len(sequences) - 1
            while sequences[last] != 1:
                last -= 1
            if offsets[first][0] <= start_char and offsets[last][1] >= end_char:
                # The well-known loops walk on past the window where the answer is its last token; these stop.
                begin, stop = first, last
                while first <= stop and offsets[first][0] <= start_char:
                    first += 1
                while last >= begin and offsets[last][1] >= end_char:
                    last -= 1
                start, end = first - 1, last + 1
        features["start_positions"].append(start)
        features["end_positions"].append(end)
    return features


def plain_validation_features(examples: dict, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Take the offsets outside the context away, one feature and one token after the other."""
    features = plain_windows(examples, tokenizer)
    owners = features.pop("overflow_to_sample_mapping")
    features["example_id"] = []
    for number in range(len(features["input_ids"])):
        sequences = features.sequence_ids(number)
        features["example_id"].append(examples["id"][owners[number]])
        features["offset_mapping"][number] = [
            offset if sequences[token] == 1 else None for token, offset in enumerate(features["offset_mapping"][number])
        ]
    return features


def plain_windows(examples: dict, tokenizer: PreTrainedTokenizerBase) -> dict:
    """Tokenize every question together with its context."""
    return tokenizer(
        [question.lstrip() for question in examples["question"]],
        examples["context"],
        truncation="only_second",
        max_length=LENGTH,
        stride=STRIDE,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        padding="max_length",
    )


def plain_answers(
    examples: Dataset, features: Dataset, logits: tuple[np.ndarray, np.ndarray], folder: str | None
) -> dict:
    """Try every pair of the best starts and ends of every feature, and write what was found."""
    number_of = {name: number for number, name in enumerate(examples["id"])}
    features_of = collections.defaultdict(list)
    for number, feature in enumerate(features):
        features_of[number_of[feature["example_id"]]].append(number)
    answers, n_best = {}, {}
    for example_number, example in enumerate(examples):
        found = []
        for number in features_of[example_number]:
            starts, ends = logits[0][number], logits[1][number]
            offsets = features[number]["offset_mapping"]
            best_ends = np.argsort(ends)[-1 : -N_BEST - 1 : -1].tolist()
            for start in np.argsort(starts)[-1 : -N_BEST - 1 : -1].tolist():
                for end in best_ends:
                    if start >= len(offsets) or end >= len(offsets):
                        continue
                    if not offsets[start] or not offsets[end]:
                        continue
                    if end < start or end - start + 1 > LONGEST:
                        continue
                    found.append(
                        {
                            "offsets": (offsets[start][0], offsets[end][1]),
                            "score": starts[start] + ends[end],
                            "start_logit": starts[start],
                            "end_logit": ends[end],
                        }
                    )
        found = sorted(found, key=lambda candidate: candidate["score"], reverse=True)[:N_BEST]
        for candidate in found:
            begin, end = candidate.pop("offsets")
            candidate["text"] = example["context"][begin:end]
        if not found or (len(found) == 1 and found[0]["text"] == ""):
            found.insert(0, {"text": "empty", "start_logit": 0.0, "end_logit": 0.0, "score": 0.0})
        scores = np.array([candidate.pop("score") for candidate in found])
        exponentials = np.exp(scores - np.max(scores))
        for candidate, probability in zip(found, exponentials / exponentials.sum(), strict=True):
            candidate["probability"] = probability
        answers[example["id"]] = found[0]["text"]
        n_best[example["id"]] = [
            {key: value if isinstance(value, str) else float(value) for key, value in candidate.items()}
            for candidate in found
        ]
    if folder is None:
        return answers
    for name, content in (("predictions", answers), ("nbest_predictions", n_best)):
        (Path(folder) / f"{name}.json").write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    return answers


# ---------------------------------------------------------------------------------------------------------------------
# Measuring


def race(rivals: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median CPU seconds of each, all taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, work in rivals.items():
            gc.collect()
            begin = time.process_time()
            work()
            seconds[name].append(time.process_time() - begin)
    return {name: statistics.median(found) for name, found in seconds.items()}


def measure_features(
    examples: dict, tokenizer: PreTrainedTokenizerBase, folder: Path, rounds: int
) -> dict[str, dict[str, float]]:
    """Time both kinds of features, by themselves and through ``Dataset.map``, and check that both ways agree."""
    table = as_dataset(examples, folder)
    found = {}
    for kind, plain, ours in (
        ("training", plain_train_features, prepare_train_features),
        ("evaluation", plain_validation_features, prepare_validation_features),
    ):

        def mapped(prepare: Callable, table: Dataset = table) -> Dataset:
            return make_features(table, tokenizer, prepare)

        ways = {name: mapped(prepare).data.table for name, prepare in (("plain", plain), ("ours", ours))}
        if ways["plain"].to_pylist() != ways["ours"].select(ways["plain"].column_names).to_pylist():
            raise RuntimeError(f"features for {kind} differ from those of the plain loops")
        found[kind] = race(
            {"plain": lambda p=plain: p(examples, tokenizer), "ours": lambda o=ours: o(examples, tokenizer)}, rounds
        )
        found[f"{kind}, with Dataset.map"] = race(
            {"plain": lambda p=plain: mapped(p), "ours": lambda o=ours: mapped(o)}, rounds
        )
    return found


def as_dataset(examples: dict, folder: Path) -> Dataset:
    """The questions as the script loads them: a table in a file."""
    path = folder / f"{len(examples['id'])}.json"
    rows = [dict(zip(examples, row, strict=True)) for row in zip(*examples.values(), strict=True)]
    path.write_text(json.dumps({"data": rows}), encoding="utf-8")
    return load_squad_files({"train": path}, cache_dir=folder)["train"]


def make_features(table: Dataset, tokenizer: PreTrainedTokenizerBase, prepare: Callable) -> Dataset:
    """Map as the script does."""
    return table.map(
        prepare,
        batched=True,
        remove_columns=table.column_names,
        load_from_cache_file=False,
        fn_kwargs={"tokenizer": tokenizer},
    )


def fake_logits(count: int, rounded: bool, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Start and end logits that are highest around one token, as a trained model's; rounded, as an int8 model's."""
    rng = np.random.default_rng(seed)
    away = np.abs(np.arange(LENGTH) - rng.integers(20, 250, (count, 1))) / 4
    logits = [rng.normal(size=(count, LENGTH)) * 1.5 - np.minimum(away, 6) for _ in range(2)]
    start, end = (np.round(part * 4) / 4 if rounded else part for part in logits)
    return start.astype(np.float32), end.astype(np.float32)


def measure_answers(table: Dataset, features: Dataset, folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Time the answers to all questions, n-best lists and files included, and check that both ways agree."""
    found = {}
    for kind, rounded in (("logits of a float model", False), ("logits with many ties", True)):
        logits = fake_logits(len(features), rounded)

        def plain(logits: tuple = logits) -> dict:
            return plain_answers(table, features, logits, str(folder))

        def ours(logits: tuple = logits, out: str | None = str(folder)) -> dict:
            return postprocess_qa_predictions(
                table, features, logits, n_best_size=N_BEST, max_answer_length=LONGEST, output_dir=out, prefix="ours"
            )

        if plain() != ours() or not same_n_best(folder):
            raise RuntimeError(f"{kind}: answers differ from those of the plain loops")
        found[kind] = race({"plain": plain, "ours": ours}, rounds)
        found[f"{kind}, best answer only"] = race(
            {
                "plain": lambda logits=logits: plain_answers(table, features, logits, None),
                "ours": lambda: ours(out=None),
            },
            rounds,
        )
    return found


def same_n_best(folder: Path) -> bool:
    """Whether both ways wrote the same texts, probabilities and logits."""
    plain, ours = (
        json.loads((folder / f"{prefix}nbest_predictions.json").read_text(encoding="utf-8")) for prefix in ("", "ours_")
    )
    return plain == ours


class LookUp(torch.nn.Module):
    """A model that takes no time and gives every token two logits."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.logits = torch.nn.Embedding(vocabulary, 2)

    def forward(self, input_ids: torch.Tensor, **_: torch.Tensor) -> dict[str, torch.Tensor]:
        """Give logits of shape [batch, tokens]."""
        start, end = self.logits(input_ids).split(1, dim=-1)
        return {"start_logits": start.squeeze(-1).contiguous(), "end_logits": end.squeeze(-1).contiguous()}


def peak_of_evaluation(questions: int, plain: bool, folder: Path) -> tuple[int, int]:
    """Evaluate in this process: the number of features, and by how many bytes its own memory grew at most."""
    words = made_up_words(12000)
    tokenizer = build_tokenizer(words)
    table = as_dataset(make_examples(questions, words), folder)
    features = make_features(table, tokenizer, prepare_validation_features)
    torch.manual_seed(0)

    def answer(examples: Dataset, features: Dataset, logits: tuple, stage: str) -> EvalPrediction:
        if plain:
            found = plain_answers(examples, features, logits, str(folder))
        else:
            found = postprocess_qa_predictions(examples, features, logits, output_dir=str(folder), prefix=stage)
        return EvalPrediction(predictions=list(found.items()), label_ids=None)

    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], disable_tqdm=True, per_device_eval_batch_size=32
    )
    shared = {"model": LookUp(len(tokenizer)), "args": arguments, "data_collator": default_data_collator}
    trainer = Trainer(**shared) if plain else QuestionAnsweringTrainer(**shared, post_process_function=answer)

    def evaluate(features: Dataset, examples: Dataset) -> None:
        if plain:
            answer(examples, features, trainer.predict(features).predictions, "eval")
        else:
            trainer.predict(features, examples)

    evaluate(features.select(range(64)), table)  # what the first call loads does not count
    peak = Peak()
    with peak:
        evaluate(features, table)
    return len(features), peak.bytes


class Peak:
    """How far this process's own memory (no files that are mapped into it) rises while the block runs."""

    def __enter__(self) -> None:
        gc.collect()
        self.before = self.highest = self._now()
        self.done = threading.Event()
        self.watch = threading.Thread(target=self._watch)
        self.watch.start()

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.watch.join()

    @property
    def bytes(self) -> int:
        """Highest minus first."""
        return self.highest - self.before

    def _watch(self) -> None:
        while not self.done.wait(0.005):
            self.highest = max(self.highest, self._now())

    def _now(self) -> int:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measure_memory(sizes: tuple[int, int]) -> dict[str, float]:
    """Bytes that an evaluation takes for each further feature, each size in a process of its own."""
    found = {}
    for name in ("plain", "ours"):
        measured = []
        for size in sizes:
            command = [sys.executable, "-m", "benchmarks.qa_pipeline", "--evaluate", name, "--questions", str(size)]
            output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
            measured.append(json.loads(output.splitlines()[-1]))
        (few, low), (many, high) = measured
        found[name] = (high - low) / (many - few)
    return found


def measure_start(rounds: int) -> dict[str, float]:
    """Median CPU seconds until the script has shown its help, or refused a flag or a recipe."""
    bare = ["--model_name_or_path", "nowhere", "--dataset_name", "nowhere", "--output_dir", "nowhere"]
    found = {}
    for name, flags in (
        ("--help", ["--help"]),
        ("an unknown flag", [*bare, "--doc_strode", "3"]),
        ("a wrong recipe", [*bare, "--recipe", "nowhere.yaml"]),
    ):
        seconds = []
        for _ in range(rounds):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "run_qa.py", *flags], cwd=ROOT, capture_output=True, check=False)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        found[name] = statistics.median(seconds)
    return found


# ---------------------------------------------------------------------------------------------------------------------
# The page


def report(results: dict) -> str:
    """The results as Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    heads = ["what", "plain", "ours", "plain / ours", "bar", "reached"]
    lines = [
        "# Features, answer spans, evaluation and start-up",
        "",
        f"{results['date']}, one thread on {results['cpu']}, {results['system']}; {versions}. Made by `make bench-qa`.",
        "",
        "CPU time, medians of runs that take turns. Plain is what the well-known script does, one feature and token "
        "after the other. Before the clock starts, features, answers, n-best lists and probabilities are found to be "
        f"equal both ways. Made-up questions, {QUESTIONS_PER_CONTEXT} about each context unless it says otherwise; "
        f"length {LENGTH}, stride {STRIDE}, n_best {N_BEST}, answers of {LONGEST} tokens at most.",
        "",
    ]
    rows = []
    for title, bar, cells in (
        ("features for {}", 3.0, results["features"]),
        ("features for {}, one question about each context", None, results["single"]),
        (f"answers from {results['answered']} features, {{}}", 10.0, results["answers"]),
    ):
        for kind, cell in cells.items():
            ratio = cell["plain"] / cell["ours"]
            reached = ("", "") if bar is None else (f"at least {bar:g}x", "yes" if ratio >= bar else "no")
            times = (f"{cell['plain']:.2f} s", f"{cell['ours']:.2f} s", f"{ratio:.1f}x")
            rows.append([title.format(kind), *times, *reached])
    plain, ours = results["memory"]["plain"] / 1000, results["memory"]["ours"] / 1000
    reached = "yes" if ours <= 10 else "no"
    sizes = (f"{plain:.1f} kB", f"{ours:.1f} kB", f"{plain / ours:.1f}x")
    rows.append(["memory of an evaluation, each feature", *sizes, "at most 10 kB", reached])
    for name, seconds in results["start"].items():
        reached = "yes" if seconds <= 4 else "no"
        rows.append([f"start-up: {name}", "", f"{seconds:.1f} s", "", "at most 4 s", reached])
    return "\n".join([*lines, markdown((heads, rows))]) + "\n" + NOTES


NOTES = """
Where the time goes, and what limits it:

- **Features.** Tokenizing is most of the plain way's time, and SQuAD asks about five questions about a context: each
  context is tokenized once a batch. Columns become Arrow arrays at once, without lists of Python numbers in between.
  What is left is the tokenizer itself, for four fifths. With one question to a context there is little to gain.
- **Answers.** All features of a chunk are ranked together, only the best spans' characters are looked up, and the JSON
  text is written without objects in between. About half of what is left is that text, a sixth is sorting.
- **Memory.** Logits stay in their batches until all are there, and each batch goes as it is copied into the whole:
  they are never held twice. Counted is the process's own memory; features are mapped from their file.
- **Overlap.** Tokenizing, forward and post-processing stay one after the other: by the rows above the first and last
  take about 0.3 ms a feature, and a 6-layer model's forward pass at length 128 takes 31 ms on one core
  (onnx_engines.md). Hiding them behind it could save 1 %, and would take a core from it. This is reckoned, not tried.
- **Start-up.** Nearly all of it is the import of torch and of Transformers' `TrainingArguments`, whose flags are the
  help. Models, Trainer, datasets and onnxruntime are imported once flags and recipe are known to be right.
"""


def main() -> None:
    """Measure everything and write the page, or evaluate once for the sake of memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, default=2000, help="questions to make features of")
    parser.add_argument("--features", type=int, default=10000, help="features to find answers in")
    parser.add_argument("--rounds", type=int, default=5, help="how often each way has its turn")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/qa_pipeline.md", help="the page")
    parser.add_argument("--evaluate", choices=("plain", "ours"), help="only evaluate, and print features and bytes")
    given = parser.parse_args()
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        datasets.config.HF_DATASETS_CACHE = folder
        if given.evaluate is not None:
            print(json.dumps(peak_of_evaluation(given.questions, given.evaluate == "plain", folder)))
            return
        words = made_up_words(12000)
        tokenizer = build_tokenizer(words)
        results = {
            "date": datetime.date.today().isoformat(),
            "cpu": cpu_name(),
            "system": platform.system(),
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("transformers", "tokenizers", "datasets", "pyarrow", "numpy", "torch")
            },
            "features": measure_features(make_examples(given.questions, words), tokenizer, folder, given.rounds),
            "single": measure_features(make_examples(given.questions // 2, words, 1), tokenizer, folder, given.rounds),
        }
        table = as_dataset(make_examples(round(given.features * 0.89), words), folder)
        features = make_features(table, tokenizer, prepare_validation_features)
        results["answered"] = len(features)
        results["answers"] = measure_answers(table, features, folder, min(given.rounds, 3))
    results["memory"] = measure_memory((2000, 6000))
    results["start"] = measure_start(3)
    given.output.write_text(report(results), encoding="utf-8")
    print(given.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
