"""Is a student of cached hidden states the student of a live teacher, up to 16 bits?"""

import collections
import itertools
import os
import resource
import shutil
import socket
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import torch.multiprocessing

from helpers import plain_and_empty
from helpers.resuming import Stop
from helpers.trainers import (
    SparseTrainer,
    arguments,
    assert_same_model,
    collate,
    losses,
    make_model,
    ragged_data,
)
from sparsification.distillation.hidden_state_cache import HiddenStateCache, count_tokens, recorded_outputs
from sparsification.manager import ScheduledModifierManager
from sparsification.recipe.document import RecipeError

LAYERS = r"""
modifiers:
  - !PerLayerDistillationModifier
    student_layer_names: ['re:.*encoder\.layer\.[02]$']
    ignore_padding: true
    cache_hidden_states: true
"""
LIVE = LAYERS.replace("cache_hidden_states: true", "cache_hidden_states: false")
NAMES = [f"bert.encoder.layer.{number}.hidden_states" for number in (0, 2)]


def padded_data() -> datasets.Dataset:
    """The same features, all padded to 12 tokens."""

    def pad(row):
        return {name: row[name] + [0] * (12 - len(row[name])) for name in ("input_ids", "attention_mask")}

    return ragged_data().map(pad)


def make_trainer(folder, cache, recipe: str = LAYERS, data: datasets.Dataset | None = None, **changes):
    """A trainer, and how many features its teacher was asked about at each of its calls."""
    teacher, asked = make_model(seed=9), []
    teacher.register_forward_hook(lambda _, inputs, outputs: asked.append(len(outputs.start_logits)))
    trainer = SparseTrainer(
        model=make_model(),
        args=arguments(folder, **changes),
        train_dataset=data or padded_data(),
        data_collator=collate,
        manager=ScheduledModifierManager.from_yaml(recipe),
        teacher=teacher,
        teacher_cache=cache,
    )
    return trainer, asked


def train(*args, **changes) -> tuple[SparseTrainer, list[int]]:
    trainer, asked = make_trainer(*args, **changes)
    trainer.train()
    return trainer, asked


@pytest.mark.parametrize("more", ["", "  - !DistillationModifier {hardness: 0.7}\n"])
@pytest.mark.parametrize("bf16", [False, True])
def test_cached_and_live_teacher_give_the_same_losses_up_to_sixteen_bits(more, bf16, tmp_path):
    live, asked = train(tmp_path / "live", tmp_path / "none", LIVE + more, bf16=bf16)
    assert sum(asked) == 3 * 32 and not (tmp_path / "none").exists()
    filling, asked = train(tmp_path / "filling", tmp_path / "cache", LAYERS + more, bf16=bf16)
    assert sum(asked) == 1 + 32  # the first feature for the shapes; then each one once
    reading, asked = train(tmp_path / "reading", tmp_path / "cache", LAYERS + more, bf16=bf16)
    assert asked == [1]
    assert_same_model(filling.model, reading.model)
    assert losses(filling) == losses(reading)
    key = "PerLayerDistillationModifier/distillation_loss"
    for cached, exact in zip(filling.state.log_history[:-1], live.state.log_history[:-1], strict=True):
        assert cached["loss"] == pytest.approx(exact["loss"], rel=2e-2)
        assert cached[key] == pytest.approx(exact[key], rel=2e-2)


def test_stored_values_are_the_teachers_rounded_to_sixteen_bits_and_only_those_of_tokens(tmp_path):
    trainer, _ = train(tmp_path / "out", tmp_path / "cache", data=ragged_data(), num_train_epochs=1)
    batch = collate([{name: value for name, value in row.items() if "pos" not in name} for row in padded_data()])
    with torch.no_grad():
        exact = trainer.teacher(**batch, output_hidden_states=True).hidden_states
    (folder,) = (tmp_path / "cache").glob("teacher-*/hidden_states")
    assert {path.name for path in folder.iterdir()} == {f"{name}.bfloat16" for name in NAMES} | {"index.uint32"}
    tokens = int(batch["attention_mask"].sum())
    assert (folder / f"{NAMES[0]}.bfloat16").stat().st_size == tokens * 16 * 2
    cache = HiddenStateCache(folder, count_tokens(ragged_data()))
    assert cache.open({})
    found = cache.get(torch.arange(32), batch["attention_mask"])
    for name, layer in zip(NAMES, (0, 2), strict=True):
        expected = (exact[layer + 1] * batch["attention_mask"][:, :, None]).to(torch.bfloat16)
        torch.testing.assert_close(found[name], expected, rtol=2**-7, atol=1e-6)  # other batches, other last bits
        assert (found[name] == expected).float().mean() > 0.99


def test_interrupted_run_continues_with_what_it_stored_and_ends_with_the_same_weights(tmp_path):
    data = ragged_data()  # each batch has a width of its own
    whole, all_asked = train(tmp_path / "whole", tmp_path / "one", data=data, save_strategy="steps", save_steps=3)
    stopped, _ = make_trainer(tmp_path / "out", tmp_path / "two", data=data, save_strategy="steps", save_steps=3)
    steps = itertools.count(1)

    def stop(module, args):
        if next(steps) == 6:
            raise Stop

    stopped.model.register_forward_pre_hook(stop)
    with pytest.raises(Stop):
        stopped.train()
    resumed, asked = make_trainer(tmp_path / "out", tmp_path / "two", data=data, save_strategy="steps", save_steps=3)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 24
    assert sum(asked) == sum(all_asked) - 20  # five batches were stored, two of them after the checkpoint
    assert_same_model(whole.model, resumed.model)
    assert losses(whole) == losses(resumed)


def train_beside_another(rank: int, folder: Path, port: int) -> None:
    """One process of two: fill the cache, read it, and save the weights and what the teacher was asked."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in place.items()}
    for name in ("filling", "reading"):
        trainer, asked = train(folder / name, folder / "cache")
        torch.save((trainer.accelerator.unwrap_model(trainer.model).state_dict(), asked), folder / f"{name}{rank}")
    torch.distributed.destroy_process_group()


def test_processes_share_one_cache(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(train_beside_another, (tmp_path, port), nprocs=2)
    for rank in range(2):
        filled, asked = torch.load(tmp_path / f"filling{rank}")
        read, asked_again = torch.load(tmp_path / f"reading{rank}")
        assert (sum(asked), asked_again) == (1 + 16, [1])
        assert all(torch.equal(weight, read[name]) for name, weight in filled.items())


def test_cache_that_would_take_more_than_half_of_the_disk_is_not_made(tmp_path, caplog, monkeypatch):
    disk = collections.namedtuple("disk", "total used free")
    live, _ = train(tmp_path / "live", None)
    tokens = int(count_tokens(padded_data()).sum())
    size = tokens * 16 * 2 * 2 + 32 * 8
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk(0, 0, 2 * size - 1))
    refused, asked = train(tmp_path / "refused", tmp_path / "cache")
    assert f"2 layers of {tokens:,} tokens in 32 features take 0 MB, 0 MB are free in " in caplog.text
    assert caplog.text.count("hidden states are not kept") == 1 and "of which they may take 50%" in caplog.text
    assert sum(asked) == 1 + 3 * 32 and not (tmp_path / "cache").exists()
    assert_same_model(live.model, refused.model)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk(0, 0, 2 * size))
    with caplog.at_level("INFO", logger="sparsification.distillation.hidden_state_cache"):
        make_trainer(tmp_path / "kept", tmp_path / "cache")
    assert "The teacher's hidden states are cached: 2 layers of" in caplog.text
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: disk(0, 0, 0))
    _, asked = train(tmp_path / "again", tmp_path / "cache")  # their space is taken already
    assert sum(asked) == 1 + 32


def test_full_disk_costs_the_cache_and_not_the_run(tmp_path, caplog):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, hard))
    try:
        trainer, _ = make_trainer(tmp_path / "out", tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caplog.text.count("hidden states are not kept") == 1
    trainer.train()
    assert not list(tmp_path.glob("cache/*/*/*"))


def train_task(folder, task: str, cache, recipe: str) -> SparseTrainer:
    rows = [{name: value.tolist() for name, value in row.items()} for row in plain_and_empty.make_data(task)]
    trainer = SparseTrainer(
        model=plain_and_empty.make_model(task),
        args=arguments(folder),
        train_dataset=datasets.Dataset.from_list(rows),
        manager=ScheduledModifierManager.from_yaml(recipe),
        teacher=plain_and_empty.make_model(task, seed=9),
        teacher_cache=cache,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("task", ["sequence-classification", "token-classification"])
def test_tasks_whose_logits_are_cached_have_their_hidden_states_cached(task, tmp_path):
    recipe = LAYERS.replace("[02]", "[01]")
    filling = train_task(tmp_path / "filling", task, tmp_path / "cache", recipe)
    reading = train_task(tmp_path / "reading", task, tmp_path / "cache", recipe)
    assert_same_model(filling.model, reading.model)
    (folder,) = (tmp_path / "cache").glob("teacher-*/hidden_states")
    assert {path.name for path in folder.iterdir()} > {"bert.encoder.layer.0.hidden_states.bfloat16"}
    live = train_task(tmp_path / "live", task, None, recipe)
    pairs = zip(live.state.log_history[:-1], filling.state.log_history[:-1], strict=True)
    assert all(one["loss"] == pytest.approx(other["loss"], rel=2e-2) for one, other in pairs)


@pytest.mark.parametrize(
    ("task", "names", "message"),
    [
        ("masked-language-model", r"re:.*layers\.[01]$", "logits are not kept"),
        (
            "sequence-classification",
            "bert.pooler",
            "bert.pooler.hidden_states must be (batch, tokens, width)",
        ),
    ],
)
def test_outputs_that_cannot_be_cached_are_those_of_the_live_teacher(task, names, message, tmp_path, caplog):
    recipe = LAYERS.replace(r"re:.*encoder\.layer\.[02]$", names)
    live = train_task(tmp_path / "live", task, None, recipe)
    cached = train_task(tmp_path / "cached", task, tmp_path / "cache", recipe)
    assert caplog.text.count("not kept, and the teacher runs for every batch") == caplog.text.count(message) == 1
    assert_same_model(live.model, cached.model)
    assert not (tmp_path / "cache").exists()


def opened(folder, num_tokens: list[int], **layers: int) -> HiddenStateCache:
    cache = HiddenStateCache(folder, np.array(num_tokens))
    assert cache.open({name: torch.zeros(1, 2, width) for name, width in layers.items()})
    return cache


def test_padding_may_be_on_either_side_and_of_any_width(tmp_path):
    cache, reader = (opened(tmp_path, [3, 2, 4], a=4, b=6) for _ in range(2))
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    outputs = {"a": torch.randn(2, 3, 4).half(), "b": torch.randn(2, 3, 6)}
    outputs["a"] = outputs["a"].to(torch.bfloat16)
    rows = torch.tensor([1, 0])
    assert cache.get(rows, mask) is None
    put = cache.put(rows, mask, outputs)
    for name, value in outputs.items():
        assert torch.equal(put[name], (value * mask[:, :, None]).to(torch.bfloat16))
    wide = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    found = reader.get(rows, wide)
    assert torch.equal(found["a"][0, :2], put["a"][0, 1:]) and torch.equal(found["a"][1, :3], put["a"][1])
    assert not found["a"][wide == 0].any()
    assert reader.get(torch.tensor([1, 2]), wide) is None


def test_row_is_written_once(tmp_path):
    cache, mask = opened(tmp_path, [2, 2], a=4), torch.ones(1, 2)
    first = cache.put(torch.tensor([1]), mask, {"a": torch.ones(1, 2, 4)})
    again = cache.put(torch.tensor([1]), mask, {"a": torch.zeros(1, 2, 4)})
    assert torch.equal(first["a"], again["a"]) and again["a"].all()


@pytest.mark.parametrize("mask", [None, torch.ones(1, 3), torch.ones(1, 1)])
def test_batch_with_other_tokens_than_the_data_turns_the_cache_off_with_one_line(mask, tmp_path, caplog):
    cache, rows, outputs = opened(tmp_path, [2, 2], a=4), torch.tensor([0]), {"a": torch.ones(1, 2, 4)}
    for _ in range(2):
        assert cache.put(rows, mask, outputs) == {}
    assert caplog.text.count("each batch must have an attention_mask") == 1
    assert cache.get(rows, torch.ones(1, 2)) is None


def test_layers_and_teachers_have_their_own_caches(tmp_path):
    make_trainer(tmp_path / "out", tmp_path / "cache")
    make_trainer(tmp_path / "out", tmp_path / "cache", LAYERS.replace("[02]", "2"))
    make_trainer(tmp_path / "out", tmp_path / "cache", bf16=True)
    assert len(list((tmp_path / "cache").glob("teacher-*/hidden_states/index.uint32"))) == 3


def test_tokens_are_counted_by_the_mask_or_else_by_the_ids():
    lengths = [5 + number % 8 for number in range(32)]
    for data in (padded_data(), ragged_data(), ragged_data().remove_columns("attention_mask")):
        assert count_tokens(data).tolist() == lengths
        assert count_tokens(data.with_format("torch")).tolist() == lengths


def test_outputs_are_recorded_within_the_context_only():
    layer = torch.nn.Linear(2, 3)
    with recorded_outputs({"layer": layer}) as outputs:
        expected = layer(torch.ones(1, 2))
    layer(torch.zeros(1, 2))
    assert torch.equal(outputs["layer"], expected) and not layer._forward_hooks


def test_padding_that_is_compared_cannot_be_cached():
    with pytest.raises(RecipeError, match="ignore_padding must be true with cache_hidden_states"):
        ScheduledModifierManager.from_yaml(LAYERS.replace("ignore_padding: true", "ignore_padding: false"))
