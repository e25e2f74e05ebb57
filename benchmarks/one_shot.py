"""EM and F1 after pruning without training: layer-wise reconstruction of a question-answering model.

    python benchmarks/one_shot.py --data DIR --work_dir DIR [--output benchmarks/one_shot.md]

DIR holds the New Wikipedia files of ``newwiki.py``, which has the model and the flags, too. The teacher is trained for
one epoch. Each other run prunes it with ``--one_shot`` and evaluates it. A run that is done is not repeated.
"""

import argparse
import json
import platform
from datetime import date
from pathlib import Path

import torch
import transformers
from newwiki import COMMON, ROOT, data_flags, layer_sparsities, make_start_model, run

from sparsification.report.environment import cpu_name

TEACHER = ["--learning_rate", "2e-4", "--warmup_steps", "0.1", "--num_train_epochs", "1"]
ONE_SHOT = (
    "--one_shot --do_eval --per_device_train_batch_size 16 --per_device_eval_batch_size 32 --max_seq_length 384 "
    "--doc_stride 128 --pad_to_max_length False --use_cpu --seed 42"
).split()
# Name: the recipe, and its variables.
RUNS = {
    "reconstruct50": ("one-shot_reconstruct50", ""),
    "reconstruct50_int8": ("one-shot_reconstruct50_int8", ""),
    "reconstruct50_block4": ("one-shot_reconstruct50_block4", ""),
    "reconstruct50_block4_int8": ("one-shot_reconstruct50_int8", '{"mask_type": [1, 4]}'),
    "reconstruct70": ("one-shot_reconstruct50", "sparsity=0.7"),
    "reconstruct80": ("one-shot_reconstruct80", ""),
}


def main() -> None:
    """Do what has not been done yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work_dir", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks" / "one_shot.md")
    args = parser.parse_args()
    work = args.work_dir.resolve()
    data, dense = data_flags(args.data, work), make_start_model(work)
    run(work / "teacher_1epoch", ["--model_name_or_path", str(dense), *data, *COMMON, *TEACHER])
    for name, (recipe, variables) in RUNS.items():
        given = ["--model_name_or_path", str(work / "teacher_1epoch"), *data, *ONE_SHOT]
        given += ["--recipe", f"recipes/{recipe}.md"] + (["--recipe_args", variables] if variables else [])
        run(work / name, given)
    args.output.write_text(table(work, ["teacher_1epoch", *RUNS]), encoding="utf-8")
    print(args.output.read_text(encoding="utf-8"))


def table(work: Path, names: list[str]) -> str:
    """Format the results as Markdown."""
    lines = [
        "# Pruning without training: all-MiniLM-L6-v2 on New Wikipedia",
        "",
        f"{date.today()}, 1 thread on {cpu_name()}, {platform.system()}; torch {torch.__version__}, Transformers "
        f"{transformers.__version__}. Made by `make newwiki-one-shot` with `OMP_NUM_THREADS=1`; minutes and memory are "
        "those of the whole command, with features and evaluation, on a machine that others used too.",
        "",
        "| run | sparsity of the encoder | EM / F1 | share of the teacher's F1 | minutes | peak memory |",
        "|---|---|---|---|---|---|",
    ]
    results = {name: json.loads((work / name / "all_results.json").read_text(encoding="utf-8")) for name in names}
    for name, own in results.items():
        resources = json.loads((work / name / "run.json").read_text(encoding="utf-8"))
        shares = layer_sparsities(work / name)
        lines.append(
            f"| {name} | {sum(shares) / len(shares):.1%} | {own['eval_exact_match']:.1f} / {own['eval_f1']:.1f} "
            f"| {own['eval_f1'] / results[names[0]]['eval_f1']:.1%} | {resources['seconds'] / 60:.0f} "
            f"| {resources['peak_bytes'] / 2**30:.1f} GiB |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
