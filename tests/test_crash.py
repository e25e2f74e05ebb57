"""What is left of a run that is killed, or whose disk is full? crash_study.py asks the same a hundred times."""

import os
import resource
import shutil
from pathlib import Path

import crash_study
import pytest
from test_sparse_trainer import PRUNE, make_data, make_trainer

from sparsification import saving
from sparsification.saving import SavingError, checkpoints, flaw_of


def test_killed_runs_leave_nothing_half_written_and_end_with_the_same_weights(tmp_path):
    counts = crash_study.study(tmp_path, kills=3)
    assert counts["kills"] == 3


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    make_trainer(folder, PRUNE, num_train_epochs=1, save_strategy="epoch").train()
    return folder / "checkpoint-8"


def test_whole_checkpoint_has_no_flaw(checkpoint):
    assert flaw_of(checkpoint) is None


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
    + ["sparsification.safetensors"],
)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_file_that_is_cut_short_is_a_flaw(checkpoint, tmp_path, name, share):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    os.truncate(copy / name, int(share * (copy / name).stat().st_size))
    assert flaw_of(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.json"])
def test_missing_file_is_a_flaw(checkpoint, tmp_path, name):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / name).unlink()
    assert flaw_of(copy)


def test_full_disk_leaves_the_checkpoints_before_and_says_so(tmp_path):
    trainer = make_trainer(tmp_path, PRUNE, save_strategy="steps", save_steps=2, save_total_limit=1)
    save = trainer._save_checkpoint
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_on_a_full_disk(*args, **kwargs):
        if trainer.state.global_step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        try:
            save(*args, **kwargs)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    trainer._save_checkpoint = save_on_a_full_disk
    with pytest.raises(SavingError, match="checkpoint-6 could not be saved in .* stays as it is") as caught:
        trainer.train()
    assert "\n" not in str(caught.value)
    assert list(checkpoints(tmp_path)) == [4]
    assert flaw_of(tmp_path / "checkpoint-4") is None
    assert not (tmp_path / saving.SAVING).exists()


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_limit_keeps_the_newest_checkpoints_and_the_best(tmp_path, limit):
    for step in (2, 4, 10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    saving.remove_old_checkpoints(tmp_path, limit, str(tmp_path / "checkpoint-4"))
    assert list(checkpoints(tmp_path)) == {1: [4, 20], 2: [4, 20], 3: [4, 10, 20]}[limit]
    saving.remove_old_checkpoints(tmp_path, limit, None)
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
    assert best.parent == tmp_path and flaw_of(best) is None
    for path in checkpoints(tmp_path).values():
        assert saving.SAVING not in (path / "trainer_state.json").read_text()


def test_folder_that_cannot_be_written_to_is_said(tmp_path):
    trainer = make_trainer(tmp_path, None)
    with pytest.raises(SavingError, match="the model could not be saved in /proc/nowhere: "):
        trainer.save_model("/proc/nowhere")  # not even root can
