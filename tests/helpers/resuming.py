"""Comparison of an interrupted and resumed run with an uninterrupted one."""

import json
from pathlib import Path

import pytest
import torch

from helpers.trainers import SparseTrainer, arguments, assert_same_model, make_data, make_model
from sparsification.manager import ScheduledModifierManager

EPOCHS = 3


def write(recipe: list[tuple[str, dict]]) -> str:
    return "modifiers:\n" + "".join(f"  - !{name} {json.dumps(values)}\n" for name, values in recipe)


def trainer_of(folder: Path, recipe: str, changes: dict) -> SparseTrainer:
    hidden = 24 if "PerLayer" in recipe else 16
    return SparseTrainer(
        model=make_model(),
        args=arguments(folder, **{"num_train_epochs": EPOCHS} | changes),
        train_dataset=make_data(),
        manager=ScheduledModifierManager.from_yaml(recipe),
        teacher=make_model(seed=9, hidden=hidden) if "Distillation" in recipe else None,
    )


class Stop(Exception):
    """The run is stopped."""


def assert_same(one: object, other: object, where: str) -> None:
    """Compare nested values, tensors bit by bit."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key, value in one.items():
            assert_same(value, other[key], f"{where}: {key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (first, second) in enumerate(zip(one, other, strict=True)):
            assert_same(first, second, f"{where}: {index}")
    else:
        assert one == other, where


def assert_resumes_exactly(folder: Path, recipe: str, changes: dict, share: float, saves: int) -> None:
    """Run once, and once more with a stop at ``share`` of the steps, at the last of ``saves`` checkpoints."""
    whole = trainer_of(folder / "whole", recipe, changes)
    whole.train()
    every = max(int(share * whole.state.max_steps) // saves, 1)
    settings = changes | {"save_strategy": "steps", "save_steps": every}
    first = trainer_of(folder / "parts", recipe, settings)
    save = first._save_checkpoint

    def save_and_stop(*args, **kwargs):
        save(*args, **kwargs)
        if first.state.global_step == every * saves:
            raise Stop

    first._save_checkpoint = save_and_stop
    with pytest.raises(Stop):
        first.train()
    stop = first.state.global_step
    second = trainer_of(folder / "parts", recipe, settings)
    second.train(resume_from_checkpoint=str(folder / "parts" / f"checkpoint-{stop}"))
    assert_same_model(whole.model, second.model)
    for part in ("optimizer", "lr_scheduler", "manager"):
        assert_same(getattr(whole, part).state_dict(), getattr(second, part).state_dict(), part)
    lines = [[row for row in run.state.log_history if "loss" in row and row["step"] > stop] for run in (whole, second)]
    assert_same(*lines, "log")
