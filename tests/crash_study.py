"""What does a run that is killed at any moment leave behind, and how does it end when it is started again?

    make crash-study KILLS=100

A run of ``run_qa.py`` on a tiny model (pruning, int8, distillation, a checkpoint every other step, two kept, ONNX at
the end) is killed with SIGKILL at a random moment, half of the times while something is being written. Then all that
has its final name must be whole, the newest whole checkpoint no older than before, and the same command goes on. Once
it ends by itself its weights must be, bit by bit, those of a run that was never killed. robustness.md has results.

Each life is a fork of one process that has imported everything, so that it takes a second.
"""

import argparse
import datetime
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import onnx
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import run_qa
from helpers.data import PLACES, squad_json
from helpers.models import save_tiny_bert
from sparsification.atomic_io import SAVING
from sparsification.trainer.checkpoints import checkpoint_error, checkpoints, last_complete_checkpoint

RECIPE = """
training_modifiers:
  - !EpochRangeModifier {end_epoch: 4.0}
pruning_modifiers:
  - !GMPruningModifier
    params: ['re:.*layer.[0-9]+.*dense.weight']
    final_sparsity: 0.8
    start_epoch: 0.5
    end_epoch: 3.0
    update_frequency: 0.25
quantization_modifiers:
  - !QuantizationModifier {start_epoch: 2.0, disable_quantization_observer_epoch: 3.5}
distillation_modifiers:
  - !DistillationModifier {hardness: 0.5}
"""
FLAGS = (
    "--do_train --do_eval --use_cpu --max_seq_length 48 --doc_stride 16 --per_device_train_batch_size 4 --seed 5 "
    "--save_strategy steps --save_steps 2 --save_total_limit 2 --logging_steps 1 --report_to none --disable_tqdm true "
    "--teacher_cache off --recipe recipe.yaml --distill_teacher model --log_level error --onnx_exporter torchscript"
)


def prepare(folder: Path) -> None:
    """Write data, model and recipe."""
    (folder / "train.json").write_text(json.dumps(squad_json(PLACES[:6])))
    (folder / "validation.json").write_text(json.dumps(squad_json(PLACES[6:])))
    (folder / "recipe.yaml").write_text(RECIPE)
    save_tiny_bert(folder / "model", hidden_size=16, positions=64)


def start(folder: Path, name: str) -> int:
    """Fork a run into ``folder/name`` and give its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.chdir(folder)
        with open(f"{name}.log", "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        flags = f"--model_name_or_path model --train_file train.json --validation_file validation.json {FLAGS}"
        sys.argv = ["run_qa.py", *flags.split(), "--output_dir", name, "--onnx_export_path", f"{name}-onnx"]
        status = run_qa.cli()
    finally:
        os._exit(status)


def wait(child: int) -> int:
    """Exit status of a run, negative where it was killed."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def half_written(out: Path, onnx_dir: Path) -> list[str]:
    """Files and folders that have their final name and are not whole."""
    wrong = [f"{path.name}: {flaw}" for path in checkpoints(out).values() if (flaw := checkpoint_error(path))]
    for path in [*out.glob("*.json"), *onnx_dir.glob("*.json")]:
        try:
            json.loads(path.read_text())
        except ValueError as error:
            wrong.append(f"{path.name}: {error}")
    for path in out.glob("*.safetensors"):
        with safe_open(path, "pt"):
            pass
    if (onnx_dir / "model.onnx").exists():
        onnx.checker.check_model(onnx_dir / "model.onnx")
    return wrong


def newest(out: Path) -> int:
    """Step of the newest whole checkpoint, 0 where there is none."""
    path = last_complete_checkpoint(out)
    return int(Path(path).name.split("-")[1]) if path else 0


def kill_at(child: int, out: Path, onnx_dir: Path, moment: float, while_writing: bool) -> int:
    """Kill a run ``moment`` seconds from now or, from then on, as soon as it is writing; give its exit status."""
    deadline = time.monotonic() + moment
    while time.monotonic() < deadline or while_writing:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            break
        scratch = [out / SAVING, *onnx_dir.glob(".*"), *onnx_dir.glob("tmp*")]
        if while_writing and time.monotonic() >= deadline and any(path.exists() for path in scratch):
            time.sleep(random.random() * 0.02)
            break
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    return wait(child)


def study(folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Kill runs so many times, and check what is left each time.

    Returns:
        How many kills there were, how many of them while something was written, and how many runs came to their end.
    """
    random.seed(seed)
    torch.set_num_threads(1)
    prepare(folder)
    began = time.monotonic()
    assert wait(start(folder, "whole")) == 0, (folder / "whole.log").read_text()
    length = time.monotonic() - began
    expected = load_file(folder / "whole" / "model.safetensors")
    counts = {"kills": 0, "while writing": 0, "runs": 0}
    while counts["kills"] < kills:
        name = f"run{counts['runs']}"
        out, onnx_dir, reached = folder / name, folder / f"{name}-onnx", 0
        lives = random.randrange(1, 8)  # then the run is left to end
        while lives and counts["kills"] < kills:
            lives -= 1
            status = kill_at(
                start(folder, name), out, onnx_dir, random.random() * length * 1.1, while_writing=random.random() < 0.5
            )
            assert status in (0, -signal.SIGKILL), (folder / f"{name}.log").read_text()[-3000:]
            if status:
                counts["kills"] += 1
                counts["while writing"] += (out / SAVING).exists() or any(onnx_dir.glob(".*"))
            wrong = half_written(out, onnx_dir)
            assert not wrong, wrong
            assert newest(out) >= reached, f"{newest(out)} after {reached}"
            reached = newest(out)
        assert wait(start(folder, name)) == 0, (folder / f"{name}.log").read_text()[-3000:]
        for key, tensor in load_file(out / "model.safetensors").items():
            assert torch.equal(tensor, expected[key]), f"{name}: {key}"
        assert not (out / SAVING).exists()
        counts["runs"] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = study(Path(folder), args.kills, args.seed)
    print(f"{datetime.date.today()}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


if __name__ == "__main__":
    main()
