"""Is a run resumed only where a step is the same moment of the schedule?"""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from helpers.recipes import PRUNE
from helpers.trainers import assert_same_model, make_data, make_trainer
from sparsification.trainer.epoch_length import EPOCH_FILE, EpochLength, what_differs
from sparsification.trainer.resuming import CheckpointError

LENGTH = EpochLength(steps=8, features=32, batch_size=4, accumulation=1, processes=1, drop_last=False)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of three epochs of eight steps, with a checkpoint at step 6."""
    folder = tmp_path_factory.mktemp("run")
    make_trainer(folder, PRUNE, save_strategy="steps", save_steps=6).train()
    return folder


def test_checkpoint_knows_what_an_epoch_was(run):
    assert EpochLength.load(run / "checkpoint-6") == LENGTH
    assert not (run / EPOCH_FILE).exists()


@pytest.mark.parametrize("recipe", [PRUNE, None])
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"gradient_accumulation_steps": 8}, "now it has 1 .--gradient_accumulation_steps was 1, is 8."),
        ({"per_device_train_batch_size": 8}, "now it has 4 .--per_device_train_batch_size was 4, is 8."),
        ({"features": 40}, "now it has 10 .training features was 32, is 40."),
    ],
    ids=["accumulation", "batch", "data"],
)
def test_run_with_other_steps_per_epoch_is_refused_before_training(tmp_path, run, recipe, changes, told):
    features = make_data(changes.get("features", 32))
    trainer = make_trainer(tmp_path, recipe, **{flag: value for flag, value in changes.items() if flag != "features"})
    trainer.train_dataset = features
    trainer.training_step = None
    with pytest.raises(
        CheckpointError, match=f"checkpoint-6 cannot be resumed: an epoch had 8 optimizer steps, {told}"
    ) as caught:
        trainer.train(resume_from_checkpoint=str(run / "checkpoint-6"))
    assert "\n" not in str(caught.value)


def test_other_number_of_processes_and_a_last_batch_left_out_are_named():
    now = EpochLength(steps=3, features=32, batch_size=4, accumulation=1, processes=2, drop_last=True)
    assert what_differs(LENGTH, now).endswith("(processes was 1, is 2; --dataloader_drop_last was False, is True)")


def test_same_number_of_steps_in_smaller_batches_goes_on_to_the_same_sparsity(tmp_path, run):
    trainer = make_trainer(tmp_path, PRUNE, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    trainer.train(resume_from_checkpoint=str(run / "checkpoint-6"))
    assert trainer.state.global_step == 24
    for name, weight in load_file(run / "checkpoint-24" / "model.safetensors").items():
        other = trainer.model.state_dict()[name]
        assert (weight == 0).sum() == (other == 0).sum(), name


def test_checkpoint_of_another_program_is_resumed(tmp_path, run):
    copy = Path(shutil.copytree(run / "checkpoint-6", tmp_path / "checkpoint-6"))
    (copy / EPOCH_FILE).unlink()
    whole, resumed = (make_trainer(tmp_path / name, PRUNE) for name in ("whole", "resumed"))
    whole.train()
    resumed.train(resume_from_checkpoint=str(copy))
    assert_same_model(whole.model, resumed.model)


@pytest.mark.parametrize("text", ['{"steps": 8', "[8]", '{"steps": 8}', json.dumps(vars(LENGTH) | {"steps": "8"})])
def test_file_that_is_cut_short_or_strange_is_one_message(tmp_path, run, text):
    copy = Path(shutil.copytree(run / "checkpoint-6", tmp_path / "checkpoint-6"))
    (copy / EPOCH_FILE).write_text(text)
    with pytest.raises(CheckpointError, match=f"checkpoint-6/{EPOCH_FILE}: "):
        make_trainer(tmp_path, PRUNE).train(resume_from_checkpoint=str(copy))


def test_checkpoint_without_its_optimizer_is_not_gone_on_from(tmp_path, run):
    copy = Path(shutil.copytree(run / "checkpoint-6", tmp_path / "checkpoint-6"))
    (copy / "optimizer.pt").unlink()
    with pytest.raises(CheckpointError, match="it has no optimizer.pt .*--model_name_or_path"):
        make_trainer(tmp_path, PRUNE).train(resume_from_checkpoint=str(copy))
