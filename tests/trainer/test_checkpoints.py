"""Flaws of checkpoints, found before one is resumed from."""

import os
import shutil
from pathlib import Path

import pytest

from helpers.recipes import PRUNE
from helpers.trainers import make_trainer
from sparsification.trainer.checkpoints import checkpoint_error


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    make_trainer(folder, PRUNE, num_train_epochs=1, save_strategy="epoch").train()
    return folder / "checkpoint-8"


def test_whole_checkpoint_has_no_flaw(checkpoint):
    assert checkpoint_error(checkpoint) is None


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"]
    + ["sparsification.safetensors"],
)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_file_that_is_cut_short_is_a_flaw(checkpoint, tmp_path, name, share):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    os.truncate(copy / name, int(share * (copy / name).stat().st_size))
    assert checkpoint_error(copy)


@pytest.mark.parametrize("name", ["model.safetensors", "trainer_state.json"])
def test_missing_file_is_a_flaw(checkpoint, tmp_path, name):
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / name).unlink()
    assert checkpoint_error(copy)
