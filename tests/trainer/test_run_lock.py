"""Is an output folder one run's at a time, and does a run that was killed in it go on?"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers import ROOT
from helpers.command_lines import command
from helpers.processes import run
from helpers.recipes import PRUNE
from helpers.trainers import make_trainer
from run_qa import main
from sparsification import atomic_io as saving
from sparsification.export import onnx
from sparsification.tasks.errors import TaskError, UsageError
from sparsification.trainer.checkpoints import TRAINED, checkpoint_error
from sparsification.trainer.mixin import SparseTrainerMixin
from sparsification.trainer.run_lock import RUN_LOCK, RunLockError, locked

HOLDER = """
import os, sys, time
from pathlib import Path
from sparsification.trainer.run_lock import locked
with locked(Path(sys.argv[1]), sys.argv[2]) as lock:
    lock.begin()
    if os.fork() == 0:
        time.sleep(60)  # a worker that outlives its run
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""
RECIPE = """
modifiers:
  - !EpochRangeModifier {end_epoch: 1.5}
  - !GMPruningModifier
    params: ['re:.*layer.0.*dense.weight']
    final_sparsity: 0.5
    start_epoch: 0.0
    end_epoch: 1.0
  - !LayerPruningModifier {layers: [bert.encoder.layer.1], start_epoch: 0.5}
  - !QuantizationModifier {start_epoch: 0.5, disable_quantization_observer_epoch: 1.0}
"""


def start(code: str, *argv: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code, *argv],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def holder(tmp_path):
    """Another process that has the folder ``out``."""
    process = start(HOLDER, str(tmp_path / "out"), "its command")
    assert process.stdout.readline() == "held\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_second_run_in_a_folder_is_told_at_its_start(tiny_model_dir, tmp_path, holder):
    data = tmp_path / "there is none"  # the lock is first
    with pytest.raises(RunLockError, match=f"out is in use by another run .process {holder.pid} on ") as caught:
        main(command(tiny_model_dir, data, tmp_path / "out", "--do_train", "--overwrite_output_dir"))
    assert "\n" not in str(caught.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [RUN_LOCK]


def test_second_run_with_the_same_export_folder_is_refused_at_its_start(tiny_model_dir, tmp_path, holder):
    data = tmp_path / "there is none"
    argv = command(tiny_model_dir, data, tmp_path / "other", "--do_train", "--onnx_export_path", str(tmp_path / "out"))
    with pytest.raises(RunLockError, match=f"--onnx_export_path .*out is in use by another run .process {holder.pid} "):
        main(argv)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("export", ["out", "out/onnx", "onnx", None])
def test_locks_are_gone_and_new_folders_too_where_a_run_is_refused(tiny_model_dir, tmp_path, export):
    argv = command(tiny_model_dir, tmp_path / "there is none", tmp_path / "out", "--do_train")
    with pytest.raises(TaskError, match="there is none"):
        main([*argv, "--onnx_export_path", str(tmp_path / export)] if export else argv)
    assert not list(tmp_path.iterdir())


def test_killed_run_has_no_lock_though_its_worker_lives(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locked(tmp_path / "out", "another command") as lock:
        assert not lock.was_interrupted
        (tmp_path / "out" / "weights").touch()


@pytest.mark.parametrize("again", ["its command", "another command"])
def test_killed_run_is_known_by_its_command(tmp_path, holder, again):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    (tmp_path / "out" / "logs").mkdir()
    with pytest.raises(UsageError), locked(tmp_path / "out", "refused"):
        raise UsageError("the folder is not empty")
    with locked(tmp_path / "out", again) as lock:
        assert lock.was_interrupted == (again == "its command")


def test_run_that_ends_leaves_no_lock(tmp_path):
    with locked(tmp_path / "out", "a") as lock:
        lock.begin()
        (tmp_path / "out" / "weights").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["weights"]


def test_run_that_is_refused_leaves_nothing(tiny_model_dir, tmp_path):
    with pytest.raises(OSError, match="none"), locked(tmp_path / "deep" / "out", "a"):
        raise OSError("none")
    assert not (tmp_path / "deep" / "out").exists()


def test_what_a_killed_run_leaves_is_no_work(tiny_model_dir, tiny_squad, tmp_path):
    out = tmp_path / "out"
    for name in (saving.SAVING, ".export-x1"):
        (out / name).mkdir(parents=True)
    (out / RUN_LOCK).write_text("{")
    flags = ["--do_train", "--max_steps", "1", "--save_strategy", "no", "--report_to", "none"]
    main(command(tiny_model_dir, tiny_squad, out, *flags))
    assert (out / "model.safetensors").exists() and not (out / RUN_LOCK).exists()


def export_until_killed(argv: list[str]) -> None:
    onnx.compare = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
    main(argv)


def kill_in_export(argv: list[str]) -> None:
    ((status, printed),) = run(export_until_killed, argv, folder=ROOT)
    assert status == -signal.SIGKILL, printed


@pytest.mark.parametrize("recipe", [RECIPE, None], ids=["recipe", "none"])
def test_run_without_checkpoints_that_was_killed_in_its_export_goes_on_with_it(
    tiny_model_dir, tiny_squad, tmp_path, recipe, monkeypatch, caplog
):
    out = tmp_path / "out"
    flags = [
        "--do_train",
        "--do_eval",
        "--num_train_epochs",
        "1.5",
        "--save_strategy",
        "no",
        "--skip_trial",
        "--report_to",
        "none",
    ]
    if recipe is not None:
        (tmp_path / "recipe.yaml").write_text(recipe)
        flags += ["--recipe", str(tmp_path / "recipe.yaml")]
    argv = command(tiny_model_dir, tiny_squad, out, *flags, "--onnx_export_path", str(out))
    kill_in_export(argv)
    trained, results = load_file(out / "model.safetensors"), json.loads((out / "train_results.json").read_text())
    assert list(out.glob(".export-*")) and (out / RUN_LOCK).exists() and checkpoint_error(out / TRAINED) is None
    assert not (out / TRAINED / "optimizer.pt").exists()

    monkeypatch.setattr(SparseTrainerMixin, "training_step", None)
    main(argv)
    assert "Going on from" in caplog.text
    assert (out / "model.onnx").exists()
    assert not [path.name for path in out.iterdir() if path.name.startswith((".", "_"))]
    for name, weight in load_file(out / "model.safetensors").items():
        assert torch.equal(weight, trained[name]), name
    assert json.loads((out / "train_results.json").read_text()) == results
    with pytest.raises(UsageError, match="is not empty"):  # it has ended: what is there is kept
        main(argv)


def test_end_of_training_is_not_taken_by_another_recipe(tiny_model_dir, tiny_squad, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    flags = [
        "--do_train",
        "--save_strategy",
        "no",
        "--skip_trial",
        "--report_to",
        "none",
        "--recipe",
        str(tmp_path / "recipe.yaml"),
    ]
    argv = command(tiny_model_dir, tiny_squad, tmp_path / "out", *flags, "--onnx_export_path", str(tmp_path / "onnx"))
    kill_in_export(argv)
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("0.5}", "0.25}"))
    with pytest.raises(ValueError, match="it was trained by another recipe"):
        main(argv)


def test_one_shot_run_that_was_killed_starts_again(tiny_model_dir, tiny_squad, tmp_path):
    (tmp_path / "recipe.yaml").write_text(PRUNE)
    flags = ["--do_eval", "--one_shot", "--recipe", str(tmp_path / "recipe.yaml"), "--report_to", "none"]
    argv = command(tiny_model_dir, tiny_squad, tmp_path / "out", *flags, "--onnx_export_path", str(tmp_path / "onnx"))
    kill_in_export(argv)
    with pytest.raises(UsageError, match="is not empty"):
        main([*argv, "--seed", "1"])
    main(argv)
    assert (tmp_path / "onnx" / "model.onnx").exists()


@pytest.mark.parametrize("ends", [{"max_steps": 5}, {"num_train_epochs": 1.5}, {"num_train_epochs": 1}])
def test_run_that_has_ended_makes_no_further_step(tmp_path, ends):
    settings = {"save_strategy": "steps", "save_steps": 100} | ends  # eight steps an epoch
    first = make_trainer(tmp_path, PRUNE, **settings)
    first.train()
    end = first.state.global_step
    second = make_trainer(tmp_path, PRUNE, **settings)
    second.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{end}"))
    assert second.state.global_step == end == second.state.max_steps
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name


def test_full_disk_costs_no_trained_weights_where_their_end_would_be_kept(tmp_path, caplog):
    trainer = make_trainer(tmp_path, None, num_train_epochs=1)
    trainer.keeps_end = True
    trainer._save_rng_state = lambda folder: Path("/dev/full").write_bytes(b"0" * 9000)
    trainer.train()
    trainer.save_model()
    assert "the end of training could not be saved" in caplog.text
    assert not (tmp_path / TRAINED).exists() and (tmp_path / "model.safetensors").exists()


def test_end_of_a_former_training_is_gone_when_training_starts_anew(tmp_path):
    (tmp_path / TRAINED).mkdir()
    trainer = make_trainer(tmp_path, None, max_steps=1)
    trainer.keeps_end = True
    trainer.training_step = None
    with pytest.raises(TypeError):
        trainer.train()
    assert not (tmp_path / TRAINED).exists()
