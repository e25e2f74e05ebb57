"""Saving of checkpoints: full disks, limits, and which one is the best."""

import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from helpers.recipes import PRUNE
from helpers.trainers import make_data, make_trainer
from sparsification import atomic_io as saving
from sparsification.atomic_io import SavingError
from sparsification.trainer.checkpoints import checkpoint_error, checkpoints, remove_old_checkpoints
from sparsification.trainer.resuming import CheckpointError

# What writes a file of a checkpoint, and how many bytes of it the full disk of these tests takes.
WRITERS = {
    "model.safetensors": ("_save_checkpoint", 20_000),
    "optimizer.pt": ("_save_optimizer_and_scheduler", 20_000),
    "rng_state.pth": ("_save_rng_state", 1_000),
}


@pytest.mark.parametrize("refused", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_full_disk_leaves_the_checkpoints_before_and_says_so(tmp_path, refused):
    trainer = make_trainer(tmp_path, PRUNE, save_strategy="steps", save_steps=2, save_total_limit=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def on_a_full_disk(name, limit):
        write = getattr(trainer, name)

        def limited(*args, **kwargs):
            if trainer.state.global_step == 6:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            try:
                return write(*args, **kwargs)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

        setattr(trainer, name, limited)

    on_a_full_disk(*WRITERS[refused])
    with pytest.raises(SavingError, match="checkpoint-6 could not be saved in .*Earlier saves are unchanged") as caught:
        trainer.train()
    assert "\n" not in str(caught.value)
    assert "unexpected pos" not in str(caught.value)
    assert list(checkpoints(tmp_path)) == [4]
    assert checkpoint_error(tmp_path / "checkpoint-4") is None
    assert not (tmp_path / saving.SAVING).exists()


def test_full_disk_is_said_where_torch_names_neither_file_nor_reason(tmp_path):
    told = pytest.raises(SavingError, match="MB are free on its disk")
    with told as caught, saving.explaining_faults(tmp_path, "checkpoint-2"):
        torch.save({"numbers": torch.zeros(100)}, "/dev/full")
    assert "iostream" in str(caught.value.__cause__)
    assert "\n" not in str(caught.value)


def test_other_faults_while_saving_keep_their_traceback(tmp_path):
    with pytest.raises(RuntimeError, match="size mismatch"), saving.explaining_faults(tmp_path, "a checkpoint"):
        raise RuntimeError("size mismatch")


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_limit_keeps_the_newest_checkpoints_and_the_best(tmp_path, limit):
    for step in (2, 4, 10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    remove_old_checkpoints(tmp_path, limit, str(tmp_path / "checkpoint-4"))
    assert list(checkpoints(tmp_path)) == {1: [4, 20], 2: [4, 20], 3: [4, 10, 20]}[limit]
    remove_old_checkpoints(tmp_path, limit, None)
    assert list(checkpoints(tmp_path))[-1] == 20
    assert len(checkpoints(tmp_path)) == min(limit, 3)


def test_best_checkpoint_is_remembered_under_its_final_name(tmp_path):
    trainer = make_trainer(
        tmp_path,
        None,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        eval_dataset=make_data(4),
    )
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.parent == tmp_path and checkpoint_error(best) is None
    for path in checkpoints(tmp_path).values():
        assert saving.SAVING not in (path / "trainer_state.json").read_text()


def test_best_checkpoint_is_found_beside_the_one_that_a_moved_run_goes_on_from(tmp_path):
    settings = {
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "load_best_model_at_end": True,
        "eval_dataset": make_data(4),
        "learning_rate": 1.0,  # the first epoch is the best
    }
    make_trainer(tmp_path / "before", None, num_train_epochs=2, **settings).train()
    shutil.rmtree(tmp_path / "before" / "checkpoint-24", ignore_errors=True)
    (tmp_path / "before").rename(tmp_path / "after")
    trainer = make_trainer(tmp_path / "after", None, **settings)
    last = list(checkpoints(tmp_path / "after").values())[-1]
    trainer.train(resume_from_checkpoint=str(last))
    best = Path(trainer.state.best_model_checkpoint)
    scores = {row["step"]: row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row}
    assert best == tmp_path / "after" / f"checkpoint-{min(scores, key=scores.get)}" != last
    for name, weight in load_file(best / "model.safetensors").items():
        assert torch.equal(trainer.model.state_dict()[name], weight), name


def test_best_checkpoint_that_is_gone_ends_in_one_message(tmp_path):
    trainer = make_trainer(
        tmp_path,
        None,
        save_strategy="epoch",
        eval_strategy="epoch",
        load_best_model_at_end=True,
        eval_dataset=make_data(4),
    )
    trainer.log = lambda *args: shutil.rmtree(trainer.state.best_model_checkpoint or "", ignore_errors=True)
    with pytest.raises(CheckpointError, match="process 0 does not find the best checkpoint"):
        trainer.train()


def test_folder_that_cannot_be_written_to_is_said(tmp_path):
    trainer = make_trainer(tmp_path, None)
    with pytest.raises(SavingError, match="the model could not be saved in /proc/nowhere: "):
        trainer.save_model("/proc/nowhere")  # not even root can
