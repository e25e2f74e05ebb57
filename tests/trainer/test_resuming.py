"""Can a checkpoint from somebody else run code, or end a run otherwise than with a message?"""

import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.recipes import PRUNE
from helpers.trainers import make_trainer
from sparsification.manager import ManagerError
from sparsification.tasks.errors import UsageError
from sparsification.tasks.question_answering import loading
from sparsification.tasks.question_answering.arguments import ModelArguments
from sparsification.trainer.resuming import STATE_FILE, CheckpointError


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    make_trainer(folder, PRUNE, num_train_epochs=1, save_strategy="epoch").train()
    return folder / "checkpoint-8"


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "pytorch_model.bin"])
def test_pickled_code_in_a_checkpoint_is_not_run(saved, tmp_path, name):
    checkpoint = shutil.copytree(saved, tmp_path / "checkpoint-8")
    torch.save({"state": Bomb(tmp_path / "owned")}, checkpoint / name)
    if name == "pytorch_model.bin":
        (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="one of its files holds more than numbers"):
        make_trainer(tmp_path / "out", PRUNE).train(resume_from_checkpoint=str(checkpoint))
    assert not (tmp_path / "owned").exists()


def test_pickled_code_in_the_arguments_of_a_checkpoint_is_not_read(saved, tmp_path):
    checkpoint = shutil.copytree(saved, tmp_path / "checkpoint-8")
    torch.save(Bomb(tmp_path / "owned"), checkpoint / "training_args.bin")
    make_trainer(tmp_path / "out", PRUNE).train(resume_from_checkpoint=str(checkpoint))
    assert not (tmp_path / "owned").exists()


def test_pickled_code_in_a_model_is_not_run(tiny_model_dir, tmp_path):
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (model / "model.safetensors").unlink()
    torch.save({"qa_outputs.bias": Bomb(tmp_path / "owned")}, model / "pytorch_model.bin")
    with pytest.raises(UsageError, match="--model_name_or_path"):
        loading.load_model(ModelArguments(model_name_or_path=str(model)))
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("wrong", ["empty", "short masks", "unknown weights"])
def test_state_of_another_model_is_refused(saved, tmp_path, wrong):
    checkpoint = shutil.copytree(saved, tmp_path / "checkpoint-8")
    state = load_file(checkpoint / STATE_FILE)
    if wrong == "empty":
        state = {}
    elif wrong == "short masks":
        state = {name: value[:1].clone() for name, value in state.items()}
    else:
        state["GMPruningModifier/mask.nothing.weight"] = torch.zeros(3, dtype=torch.uint8)
    save_file(state, checkpoint / STATE_FILE)
    with pytest.raises(ManagerError, match=f"{STATE_FILE} does not fit this model and recipe"):
        make_trainer(tmp_path / "out", PRUNE).train(resume_from_checkpoint=str(checkpoint))
