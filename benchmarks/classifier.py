"""Study of a text classifier: what pruning and int8 cost in right labels, on real texts.

    python -m benchmarks.classifier --data DIR --work_dir DIR [--runs NAME ...]

DIR holds ``train.csv`` and ``test.csv`` of Banking77 (Casanueva et al. 2020, arXiv:2003.04807; CC BY 4.0), the folder
``banking_data`` of the repository PolyAI-LDN/task-specific-datasets: 10,003 and 3,080 questions to a bank, each with
one of 77 intents. Ten training texts of each intent are set aside: recipes are chosen on them, the table is of the test
part. The model, and what is kept and resumed: ``benchmarks/study.py``. Results are in ``classifier.json``.
"""

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from benchmarks import study
from benchmarks.study import RATE, ROOT, SPARSE_FILE, Run, file_flags, how, interval, mean, run_study, when
from sparsification.atomic_io import atomic_write_text
from sparsification.report.tables import markdown
from sparsification.tasks.predict import load_predictor

RESULTS, PAGE = (ROOT / "benchmarks" / name for name in ("classifier.json", "classifier.md"))
ASIDE = 10  # texts of each label
BATCH = ("--per_device_train_batch_size", "32")
HEADS = [
    *("run", "epochs", "sparsity", "accuracy, PyTorch", "accuracy, ONNX Runtime", "share of the dense accuracy"),
    *("interval", "equal labels", "accuracy set aside", "file", "processor minutes"),
]


def _one_shot(recipe: str, variables: str = "", start: str = "teacher", flags: tuple[str, ...] = ()) -> Run:
    return Run(recipe, variables, start, flags, one_shot=True)


def _trained(variables: str = "") -> Run:
    return Run("minilm-classifier_prune80", variables, "teacher", RATE)


RUNS: dict[str, Run] = {
    "teacher": Run(flags=("--learning_rate", "2e-4", "--warmup_steps", "0.1", "--num_train_epochs", "5")),
    "quantize": _one_shot("quantize"),
    "magnitude50": _one_shot("prune80", "sparsity=0.5"),
    "reconstruct50": _one_shot("one-shot_reconstruct50", "allocation=uniform"),
    "reconstruct80": _one_shot("one-shot_reconstruct80", "allocation=uniform"),
    "reconstruct50_by_error": _one_shot("one-shot_reconstruct50"),
    "reconstruct80_by_error": _one_shot("one-shot_reconstruct80"),
    "prune80": _trained(),
    "prune90": _trained("sparsity=0.9"),
    "prune80_block4": _trained('{"mask_type": [1, 4]}'),
    "prune80_int8": _one_shot("quantize", start="prune80", flags=SPARSE_FILE),
    "prune80_block4_int8": _one_shot("quantize", start="prune80_block4", flags=SPARSE_FILE),
}


def main() -> None:
    """Do the runs that have not been done, and write the page."""
    run_study(__doc__, "train.csv and test.csv", Study, RUNS)


class Study(study.Study):
    """Runs of run_glue.py."""

    script, runs, results_file, page_file = "examples/run_glue.py", RUNS, RESULTS, PAGE

    def __init__(self, data: Path, work: Path) -> None:
        super().__init__(work)
        self.files = write_data(data, work)

    def flags(self, name: str, output: Path) -> list[str]:
        """The table's texts are the validation file, those set aside the test file."""
        files = self.files | {"onnx_export_path": output / "onnx"}
        if RUNS[name].recipe:
            files |= {"distill_teacher": self.model("teacher")}
        return [*file_flags(files), "--do_predict", *BATCH]

    def measure(self, name: str, folder: Path) -> dict:
        """Collect the figures of a run."""
        labels, right = self.labels(folder)
        dense, _ = self.labels(self.model("teacher"))
        return {
            **self.figures(name, folder),
            **{key: value for key, value in self.scores(folder).items() if key.endswith("accuracy")},
            "right": (labels == right).astype(int).tolist(),
            "agreement": float((labels == dense).mean()),
        }

    def labels(self, folder: Path) -> tuple[np.ndarray, np.ndarray]:
        """The labels of the table's texts that a run's fastest file gives, and the right ones."""
        files = [folder / "onnx" / name for name in ("model.sparse.onnx", "model.onnx")]
        predictor = load_predictor(next(file for file in files if file.exists()), threads=1)
        with self.files["validation_file"].open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = predictor.predict([(row["text"],) for row in rows])
        return np.array([one["label"] for one in found]), np.array([row["label"] for row in rows])

    def write_page(self) -> None:
        """Write the page."""
        atomic_write_text(PAGE, page(self.results))


def write_data(data: Path, work: Path) -> dict[str, Path]:
    """Write the texts to train on, those of the table and those set aside; return the files by their flags.

    Args:
        data: folder of train.csv and test.csv, with columns text and category.
        work: folder of the files.
    """
    rows = {}
    for split in ("train", "test"):
        with (data / f"{split}.csv").open(newline="", encoding="utf-8") as file:
            rows[split] = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    train, aside, kept = [], [], Counter[str]()
    for row in rows["train"]:
        kept[row[1]] += 1
        (aside if kept[row[1]] <= ASIDE else train).append(row)
    files = {}
    for flag, texts in (("train_file", train), ("validation_file", rows["test"]), ("test_file", aside)):
        files[flag] = work / f"{flag.removesuffix('_file')}.csv"
        with files[flag].open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *texts])
    return files


def page(results: Mapping[str, dict]) -> str:
    """Write the page.

    Args:
        results: figures of the runs by name; with the teacher's.
    """
    teacher = results["teacher"]
    lines = [
        "# A text classifier: all-MiniLM-L6-v2 on Banking77",
        "",
        f"{when(results)} Made by `make classifier-study`. 77 intents, 9,233 texts to train on. The table is of the "
        "3,080 texts of the test part; recipes were chosen on 770 further texts of the training part. The share is "
        "that of the teacher's accuracy in PyTorch; the interval has 95 % of 10,000 paired bootstrap samples over the "
        "labels of the fastest ONNX file. Equal labels: the share of texts to which that file gives the same label as "
        "the teacher's, right or wrong. Processor minutes are those of the whole command.",
        "",
    ]
    rows = []
    for name, run in results.items():
        low, high = interval(np.array(run["right"]), np.array(teacher["right"]))
        sparse = f", sparse {run['eval_onnx_sparse_accuracy']:.1%}" if "eval_onnx_sparse_accuracy" in run else ""
        rows.append(
            [
                *(name, f"{run['epochs']:g}", f"{mean(run['sparsity']):.1%}", f"{run['eval_accuracy']:.1%}"),
                f"{run['eval_onnx_accuracy']:.1%}{sparse}",
                f"{run['eval_accuracy'] / teacher['eval_accuracy']:.1%}",
                *(f"{low:.1%} to {high:.1%}", f"{run['agreement']:.1%}", f"{run['predict_accuracy']:.1%}"),
                *(f"{run['megabytes']:.1f} MB", f"{run['cpu_minutes']:.0f}"),
            ]
        )
    lines += [markdown((HEADS, rows)), "", "## How each was run", ""]
    lines += [f"- {name}: {how(run)}" for name, run in results.items()]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
