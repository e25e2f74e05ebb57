"""Study of accuracy: what pruning, distillation and int8 cost in answers, on real text.

    python -m benchmarks.accuracy --data DIR --work_dir DIR [--runs NAME ...]

DIR holds ``newwiki-train.json`` and ``newwiki-validation.json``: the New Wikipedia set of SQuADShifts (Miller, Krauth,
Recht, Schmidt 2020; CC BY 4.0), 6,649 and 1,289 questions split by article. The four shortest articles of the training
part, 336 questions, are set aside: recipes are chosen on them, the table is of the validation part. The model, and what
is kept and resumed: ``benchmarks/study.py``. Results are in ``accuracy.json``.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from benchmarks import study
from benchmarks.accuracy_curves import draw
from benchmarks.accuracy_report import page
from benchmarks.study import RATE, ROOT, SPARSE_FILE, file_flags, run_study, start_model
from sparsification.atomic_io import atomic_write_text
from sparsification.logits import distillation_loss, distributions
from sparsification.quantization.checkpoint import load_quantization
from sparsification.tasks.question_answering.metrics import f1_score

RESULTS, PAGE, CURVES = (ROOT / "benchmarks" / name for name in ("accuracy.json", "accuracy.md", "accuracy_curves.svg"))
MIN_ASIDE = 300  # questions of whole articles
TEMPERATURE = 2.0  # of the distillation loss on the questions set aside


@dataclass(frozen=True)
class Run(study.Run):
    """A command of run_qa.py."""

    start: str = "teacher"
    seed: int = 42


def _trained(recipe: str, variables: str, flags: tuple[str, ...] = RATE) -> Run:
    return Run(recipe, f"{variables},cache_hidden_states=true", "one_epoch", flags)


def _in_blocks(epochs: int) -> Run:
    variables = {"num_epochs": epochs, "mask_type": [1, 4], "cache_hidden_states": True}
    return Run("minilm-6layers_prune80", json.dumps(variables), "one_epoch", RATE)


def _in_training(rate: str) -> Run:
    """Quantization in an eleventh epoch."""
    return Run("quantize", "", "prune80_block4_10epochs", ("--learning_rate", rate, *SPARSE_FILE))


def _tutorial(recipe: str) -> Run:
    """A recipe of the tutorial in as many epochs as ours."""
    return Run(recipe, "num_epochs=3", "one_epoch", ("--learning_rate", "5e-5"))


def _obert(recipe: str) -> Run:
    """A recipe of oBERT in as many epochs as ours.

    Its 1,024 gradients of 8 questions for each of seven masks would be nine epochs, and hours: an eighth is sampled.
    """
    return Run(recipe, "num_epochs=3,num_grads=128", "one_epoch")


def _one_shot(recipe: str, variables: str = "", start: str = "one_epoch") -> Run:
    return Run(recipe, variables, start, one_shot=True)


RUNS: dict[str, Run] = {
    "teacher": Run(start="", flags=("--learning_rate", "1e-4", "--warmup_steps", "0.1", "--num_train_epochs", "3")),
    # A model of one epoch loses less by pruning than one of three, which knows its training questions by heart.
    "one_epoch": Run(start="", flags=("--learning_rate", "2e-4", "--warmup_steps", "0.1", "--num_train_epochs", "1")),
    "magnitude50": _one_shot("prune80", "sparsity=0.5"),
    "reconstruct50": _one_shot("one-shot_reconstruct50", "allocation=uniform"),
    "reconstruct50_512samples": _one_shot("one-shot_reconstruct50", "num_samples=512,allocation=uniform"),
    "reconstruct50_by_error": _one_shot("one-shot_reconstruct50", "allocation=error"),
    "reconstruct50_int8": _one_shot("one-shot_reconstruct50_int8", "allocation=uniform"),
    "reconstruct50_block4": _one_shot("one-shot_reconstruct50_block4", "allocation=uniform"),
    "reconstruct50_block4_by_error": _one_shot("one-shot_reconstruct50_block4", "allocation=error"),
    "reconstruct50_block4_int8": _one_shot(
        "one-shot_reconstruct50_int8", '{"mask_type": [1, 4], "allocation": "uniform"}'
    ),
    "reconstruct50_block4_int8_by_error": _one_shot(
        "one-shot_reconstruct50_int8", '{"mask_type": [1, 4], "allocation": "error"}'
    ),
    "reconstruct50_int8_by_error": _one_shot("one-shot_reconstruct50_int8", "allocation=error"),
    "reconstruct70": _one_shot("one-shot_reconstruct50", "sparsity=0.7,allocation=uniform"),
    "reconstruct70_by_error": _one_shot("one-shot_reconstruct50", "sparsity=0.7,allocation=error"),
    "reconstruct80": _one_shot("one-shot_reconstruct80", "allocation=uniform"),
    "reconstruct80_by_error": _one_shot("one-shot_reconstruct80", "allocation=error"),
    "reconstruct80_of_teacher": _one_shot("one-shot_reconstruct80", "allocation=uniform", "teacher"),
    "reconstruct90": _one_shot("one-shot_reconstruct80", "sparsity=0.9,allocation=uniform"),
    "reconstruct90_by_error": _one_shot("one-shot_reconstruct80", "sparsity=0.9,allocation=error"),
    "neurons50": _one_shot("one-shot_neurons50"),
    "neurons75": _one_shot("one-shot_neurons50", "sparsity=0.75"),
    "prune80": _trained("minilm-6layers_prune80", "num_epochs=3"),
    "prune90": _trained("minilm-6layers_prune80", "num_epochs=3,sparsity=0.9"),
    "prune_quant80": _trained("minilm-6layers_prune_quant80", "num_epochs=4", SPARSE_FILE),
    "prune80_block4": _in_blocks(6),
    "prune80_block4_10epochs": _in_blocks(10),
    "prune50": _trained("minilm-6layers_prune80", "num_epochs=3,sparsity=0.5"),
    "3layers_prune50": _trained("minilm-3layers_prune50", "num_epochs=3"),
    "quantize80": Run("quantize", "", "prune80", ("--learning_rate", "5e-5", *SPARSE_FILE)),
    "quantize80_one_shot": Run("quantize", "", "prune80", SPARSE_FILE, one_shot=True),
    "quantize80_block4_one_shot": Run("quantize", "", "prune80_block4", SPARSE_FILE, one_shot=True),
    "quantize80_block4_10epochs": _in_training("5e-5"),
    "quantize80_block4_10epochs_2e-4": _in_training("2e-4"),
    "quantize80_block4_10epochs_one_shot": Run("quantize", "", "prune80_block4_10epochs", SPARSE_FILE, one_shot=True),
    "prune95": _trained("minilm-6layers_prune80", "num_epochs=3,sparsity=0.95"),
    "prune80_1epoch": _trained("minilm-6layers_prune80", "num_epochs=1"),
    "prune80_10epochs": _trained("minilm-6layers_prune80", "num_epochs=10"),
    "prune90_10epochs": _trained("minilm-6layers_prune80", "num_epochs=10,sparsity=0.9"),
    "tutorial80": _tutorial("bert-base-12layers_prune80"),
    "tutorial90": _tutorial("bert-base-12layers_prune90"),
    "obert80": _obert("bert-base-12layers_obert80"),
    "obert90": _obert("bert-base-12layers_obert90"),
}
RUNS |= {
    f"{name}_seed43": Run(**{**vars(RUNS[name]), "seed": 43})
    for name in ("prune50", "prune80", "prune90", "prune_quant80", "prune80_10epochs", "prune90_10epochs")
}


def main() -> None:
    """Do the runs that have not been done, and write the page."""
    run_study(__doc__, "newwiki-train.json and newwiki-validation.json", Study, RUNS)


class Study(study.Study):
    """Runs of run_qa.py."""

    script, runs, results_file, page_file = "run_qa.py", RUNS, RESULTS, PAGE

    def __init__(self, data: Path, work: Path) -> None:
        super().__init__(work)
        self.validation = data / "newwiki-validation.json"
        self.train, self.aside = set_aside(data / "newwiki-train.json", work)

    def flags(self, name: str, output: Path) -> list[str]:
        """The table's questions are the validation file, those set aside the test file."""
        run = self.runs[name]
        assert isinstance(run, Run)
        files = {"train_file": self.train, "validation_file": self.validation, "test_file": self.aside}
        if run.recipe:
            files |= {"distill_teacher": self.model("teacher"), "onnx_export_path": output / "onnx"}
        if not run.one_shot:
            files |= {"config_name": start_model(self.work)}  # eager attention
        return [
            *file_flags(files),
            *("--do_predict", "--max_seq_length", "384", "--doc_stride", "128", "--pad_to_max_length", "False"),
            *("--seed", str(run.seed)),
        ]

    def measure(self, name: str, folder: Path) -> dict:
        """Collect the figures of a run."""
        own = self.scores(folder)
        onnx = {key.removeprefix("eval_"): value for key, value in own.items() if key.startswith("eval_onnx_")}
        return {
            **self.figures(name, folder),
            **{"em": own["eval_exact_match"], "f1": own["eval_f1"], "onnx": onnx, "aside_f1": own["test_f1"]},
            "aside_distillation_loss": self.distillation_loss(folder),
            "f1_of_questions": self.f1_of_questions(folder),
            "trained_anew": self.trained_anew(name),
        }

    def trained_anew(self, name: str) -> dict[str, dict]:
        """Scores of the teacher and of a run's start, where they are no longer those of the results.

        On another machine they are trained again, and numbers are rounded in another order.
        """
        found = {}
        for each in sorted({"teacher", self.runs[name].start} & self.results.keys()):
            folder = self.model(each)
            own = {"f1": self.scores(folder)["eval_f1"], "f1_of_questions": self.f1_of_questions(folder)}
            if own["f1_of_questions"] != self.results[each]["f1_of_questions"]:
                found[each] = own
        return found

    def f1_of_questions(self, folder: Path, stage: str = "eval") -> list[int]:
        """F1 of each question of the table in an evaluation, in whole percent."""
        return f1_of_questions(self.validation, folder / f"{stage}_predictions.json")

    def write_page(self) -> None:
        """Write the page and its pictures."""
        atomic_write_text(PAGE, page(self.results))
        draw(self.results, CURVES)

    @torch.inference_mode()
    def distillation_loss(self, folder: Path) -> float:
        """Return the mean distillation loss on the first windows of the questions set aside, in fp32."""
        student, teacher = (
            AutoModelForQuestionAnswering.from_pretrained(path).eval() for path in (folder, self.model("teacher"))
        )
        load_quantization(student, folder)
        tokenizer, losses = AutoTokenizer.from_pretrained(folder), []
        records = [(question["question"], context) for question, context in questions(self.aside)]
        for first in range(0, len(records), 32):
            batch = tokenizer(
                *map(list, zip(*records[first : first + 32], strict=True)),
                **{"truncation": "only_second", "max_length": 384, "padding": True, "return_tensors": "pt"},
            )
            own, target = (distributions(model(**batch), batch["attention_mask"]) for model in (student, teacher))
            losses += [distillation_loss(own[key], target[key], TEMPERATURE) * len(batch["input_ids"]) for key in own]
        return float(sum(losses)) / len(records) / 2


def questions(path: Path) -> Iterator[tuple[dict, str]]:
    """Yield the questions of a file of SQuAD's format, each with its paragraph."""
    for article in json.loads(path.read_text(encoding="utf-8"))["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                yield question, paragraph["context"]


def set_aside(path: Path, work: Path) -> tuple[Path, Path]:
    """Split a file of SQuAD's format into training data and the questions of its shortest articles."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    sizes = [sum(len(paragraph["qas"]) for paragraph in article["paragraphs"]) for article in whole["data"]]
    aside: set[int] = set()
    for index in sorted(range(len(sizes)), key=sizes.__getitem__):
        if sum(sizes[other] for other in aside) < MIN_ASIDE:
            aside.add(index)
    files = work / "train.json", work / "choice.json"
    for file, wanted in zip(files, (False, True), strict=True):
        articles = [article for index, article in enumerate(whole["data"]) if (index in aside) == wanted]
        atomic_write_text(file, json.dumps({**whole, "data": articles}))
    return files


def f1_of_questions(data: Path, predictions: Path) -> list[int]:
    """F1 of each question of a file, in whole percent."""
    predicted = json.loads(predictions.read_text(encoding="utf-8"))
    return [
        round(100 * max(f1_score(predicted[question["id"]], answer["text"]) for answer in question["answers"]))
        for question, _ in questions(data)
    ]


if __name__ == "__main__":
    main()
