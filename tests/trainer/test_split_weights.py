"""Refusal of launchers that split each weight between processes."""

import pytest

from helpers.recipes import PRUNE
from helpers.trainers import make_trainer
from sparsification.manager import ManagerError


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed"])
def test_launcher_that_splits_the_weights_is_refused_by_name(tmp_path, monkeypatch, name):
    trainer = make_trainer(tmp_path, PRUNE)
    monkeypatch.setattr(trainer, f"is_{name.lower()}_enabled", True)
    with pytest.raises(
        ManagerError, match=f"{name} splits the weights between processes, but a recipe needs whole weights"
    ):
        trainer._refuse_split_weights()
