"""Is a teacher that is asked once as good as one that is asked every time?"""

import resource

import datasets
import pytest
import torch

from helpers import plain_and_empty
from helpers.recipes import DISTILL, PRUNE
from helpers.trainers import (
    SparseTrainer,
    arguments,
    assert_same_model,
    collate,
    losses,
    make_data,
    make_model,
    ragged_data,
)
from sparsification.distillation.teacher_cache import TeacherCache, cache_key, fingerprint
from sparsification.manager import ScheduledModifierManager


def as_dataset(data: list[dict]) -> datasets.Dataset:
    return datasets.Dataset.from_list([{name: value.tolist() for name, value in row.items()} for row in data])


def train(
    folder, cache, teacher_seed: int = 9, recipe: str = PRUNE + DISTILL, ragged: bool = False, **changes
) -> tuple[SparseTrainer, list[int]]:
    """A distilled run, and how many features the teacher was asked about at each of its calls."""
    teacher = make_model(seed=teacher_seed)
    asked = []
    teacher.register_forward_hook(lambda _, inputs, outputs: asked.append(len(outputs.start_logits)))
    trainer = SparseTrainer(
        model=make_model(),
        args=arguments(folder, **changes),
        train_dataset=ragged_data() if ragged else as_dataset(make_data()),
        data_collator=collate,
        manager=ScheduledModifierManager.from_yaml(recipe),
        teacher=teacher,
        teacher_cache=cache,
    )
    trainer.train()
    return trainer, asked


def test_live_cached_and_stored_logits_give_the_same_weights(tmp_path):
    live, asked = train(tmp_path / "live", None)
    assert sum(asked) == 3 * 32
    cached, asked = train(tmp_path / "cached", tmp_path / "cache")
    assert sum(asked) == 32  # once, in the first epoch
    assert_same_model(live.model, cached.model)
    assert losses(live) == losses(cached)
    again, asked = train(tmp_path / "again", tmp_path / "cache")
    assert asked == []
    assert_same_model(cached.model, again.model)
    assert losses(cached) == losses(again)


def train_task(folder, task: str, cache, columns: dict[str, str] | None = None) -> SparseTrainer:
    data = as_dataset(plain_and_empty.make_data(task)).rename_columns(columns or {})
    more = {"teacher": plain_and_empty.make_model(task, seed=9), "teacher_cache": cache}
    manager = ScheduledModifierManager.from_yaml(plain_and_empty.DISTILL)
    trainer = SparseTrainer(
        model=plain_and_empty.make_model(task), args=arguments(folder), train_dataset=data, manager=manager, **more
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("task", plain_and_empty.TASKS)
def test_cache_changes_no_weight_of_any_task_and_is_off_with_one_line_where_outputs_are_no_rows(task, tmp_path, caplog):
    live = train_task(tmp_path / "live", task, None)
    cached = train_task(tmp_path / "cached", task, tmp_path / "cache")
    assert_same_model(live.model, cached.model)
    lines = [record.message for record in caplog.records if "logits are not kept" in record.message]
    kept = task in ("question-answering", "sequence-classification", "token-classification")
    assert len(lines) == (0 if kept else 1)
    assert bool(list(tmp_path.glob("cache/*"))) == kept
    if not kept:
        assert "outputs must be (batch, width) with one width of at most 16, got logits (4, 10, " in lines[0]


class Shifted(plain_and_empty.BertForSequenceClassification):
    """Takes its tokens under another name."""

    def forward(self, tokens, attention_mask, labels=None):
        return super().forward(input_ids=tokens, attention_mask=attention_mask, labels=labels)


def test_data_without_input_ids_are_trained_without_the_cache(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(plain_and_empty, "BertForSequenceClassification", Shifted)
    train_task(tmp_path, "sequence-classification", tmp_path / "cache", {"input_ids": "tokens"})
    assert "have no input_ids: the teacher's logits are not cached" in caplog.text
    assert not (tmp_path / "cache").exists()


def test_full_disk_costs_the_cache_and_not_the_run(tmp_path, caplog):
    cache = TeacherCache(tmp_path, "key", num_rows=1000, width=100)  # 400 kB an output
    rows, outputs = torch.tensor([0, 1]), {"start_logits": torch.ones(2, 100)}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        cache.put(rows, outputs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "logits are not kept" in caplog.text
    cache.put(rows, outputs)
    assert cache.get(rows, 100) is None
    assert not list(tmp_path.glob("*/*"))


def test_space_is_reserved_before_memory_is_mapped_onto_it(tmp_path):
    cache = TeacherCache(tmp_path, "key", num_rows=1000, width=100)
    cache.put(torch.tensor([0]), {"start_logits": torch.ones(1, 100)})
    (store,) = tmp_path.glob("*/start_logits.float32")
    assert store.stat().st_blocks * 512 >= 400_000


def test_sixteen_bit_logits_are_kept_in_sixteen_bits(tmp_path):
    live, _ = train(tmp_path / "live", None, bf16=True)
    cached, _ = train(tmp_path / "cached", tmp_path / "cache", bf16=True)
    assert_same_model(live.model, cached.model)
    names = {path.name for path in (tmp_path / "cache").glob("teacher-*/*")}
    assert names == {"start_logits.bfloat16", "end_logits.bfloat16", "index.uint32"}


@pytest.mark.parametrize("change", [{"teacher_seed": 10}, {"bf16": True}])
def test_another_teacher_or_precision_has_another_cache(tmp_path, change):
    train(tmp_path / "one", tmp_path / "cache")
    _, asked = train(tmp_path / "other", tmp_path / "cache", **change)
    assert sum(asked) == 32
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_other_features_have_another_key():
    data = as_dataset(make_data())
    changed = make_data()
    changed[5]["input_ids"][3] += 1
    key = fingerprint(data, ["input_ids", "attention_mask"])
    assert key == fingerprint(as_dataset(make_data()), ["input_ids", "attention_mask"])
    assert key == fingerprint(data.select(range(32)), ["input_ids", "attention_mask"])
    assert key != fingerprint(as_dataset(changed), ["input_ids", "attention_mask"])
    assert key != fingerprint(data.select(range(31)), ["input_ids", "attention_mask"])
    assert key != fingerprint(data.select([1, 0, *range(2, 32)]), ["input_ids", "attention_mask"])
    teacher = make_model()
    with torch.no_grad():
        before = cache_key(teacher, "data")
        teacher.qa_outputs.bias[0] += 1e-3
    assert before != cache_key(teacher, "data")


def filled(tmp_path, width: int = 6) -> tuple[TeacherCache, torch.Tensor]:
    cache = TeacherCache(tmp_path, "key", num_rows=10, width=8)
    logits = torch.randn(3, width)
    cache.put(torch.tensor([7, 0, 4]), {"logits": logits, "loss": torch.tensor(1.0)})
    return cache, logits


def test_rows_come_back_as_they_went_in_also_in_another_process(tmp_path):
    cache, logits = filled(tmp_path)
    for reader in (cache, TeacherCache(tmp_path, "key", num_rows=10, width=8)):
        assert torch.equal(reader.get(torch.tensor([4, 7]), 6)["logits"], logits[[2, 0]])
        assert torch.equal(reader.get(torch.tensor([0]), 4)["logits"], logits[[1], :4])
        assert reader.get(torch.tensor([4, 5]), 6) is None  # 5 was never asked
        assert reader.get(torch.tensor([4]), 7) is None  # padded further than ever before


def test_a_row_that_was_cut_short_is_no_row(tmp_path):
    filled(tmp_path)
    (path,) = tmp_path.glob("teacher-key/logits.float32")
    data = bytearray(path.read_bytes())
    data[4 * 8 * 4 : 4 * 8 * 4 + 8] = bytes(8)  # of row 4
    path.write_bytes(data)
    reader = TeacherCache(tmp_path, "key", num_rows=10, width=8)
    assert reader.get(torch.tensor([4]), 6) is None
    assert reader.get(torch.tensor([7, 0]), 6) is not None


@pytest.mark.parametrize(
    "outputs",
    [
        {"logits": torch.ones(1, 9)},
        {"logits": torch.ones(1)},
        {"hidden_states": torch.ones(1, 8, 4)},
        {"logits": torch.ones(1, 5), "others": torch.ones(1, 3)},
        {},
    ],
)
def test_what_is_no_row_of_logits_is_not_kept(outputs, tmp_path, caplog):
    cache = TeacherCache(tmp_path, "key", num_rows=10, width=8)
    cache.put(torch.tensor([1]), outputs)
    assert caplog.text.count("its outputs must be (batch, width) with one width of at most 8, got ") == 1
    cache.put(torch.tensor([1]), {"logits": torch.randn(1, 8)})  # it is off
    assert cache.get(torch.tensor([1]), 8) is None
    assert list(tmp_path.iterdir()) == []


def test_size_is_said_before_anything_is_written(tmp_path, caplog):
    with caplog.at_level("INFO", logger="sparsification.distillation.teacher_cache"):
        filled(tmp_path)
    assert "up to 0 MB" in caplog.text and str(tmp_path) in caplog.text


def test_teacher_is_asked_once_about_each_feature_where_padding_is_ignored(tmp_path):
    recipe = "modifiers:\n  - !DistillationModifier {hardness: 0.7, ignore_padding: true}\n"
    live, _ = train(tmp_path / "live", None, recipe=recipe, ragged=True)
    cached, asked = train(tmp_path / "cached", tmp_path / "cache", recipe=recipe, ragged=True)
    assert sum(asked) == 32  # batches of all epochs have other widths
    for one, other in zip(live.state.log_history[:-1], cached.state.log_history[:-1], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)


def test_real_tokens_are_found_however_they_are_padded(tmp_path):
    cache = TeacherCache(tmp_path, "key", num_rows=10, width=8, by_token=True)
    logits = torch.randn(2, 5)
    rows = torch.tensor([3, 6])
    cache.put(rows, {"logits": logits}, torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 0]]))
    found = cache.get(rows, 7, torch.tensor([[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 1]]))
    assert torch.equal(found["logits"][0], torch.cat([logits[0, 2:], torch.zeros(4)]))
    assert torch.equal(found["logits"][1], torch.cat([torch.zeros(3), logits[1, :4]]))
    assert cache.get(rows, 7, torch.ones(2, 7)) is None  # more tokens than a feature has


def test_a_row_never_becomes_narrower(tmp_path):
    cache = TeacherCache(tmp_path, "key", num_rows=10, width=8, one_width=False)
    wide, mask = torch.randn(1, 7), torch.tensor([[1, 1, 1, 0, 0, 0, 0]])
    cache.put(torch.tensor([3]), {"logits": wide}, mask)
    cache.put(torch.tensor([3, 4]), {"logits": torch.randn(2, 5)}, mask[:, :5].expand(2, 5))
    assert torch.equal(cache.get(torch.tensor([3]), 7, mask)["logits"], wide)


def test_padding_that_counts_must_not_move(tmp_path, caplog):
    mask = torch.tensor([[0, 1, 1, 1]])
    fixed = TeacherCache(tmp_path / "fixed", "key", num_rows=10, width=4)
    fixed.put(torch.tensor([3]), {"logits": torch.ones(1, 4)}, mask)
    assert fixed.get(torch.tensor([3]), 4, mask) is not None and not caplog.records
    classes = TeacherCache(tmp_path / "classes", "key", num_rows=10, width=4, one_width=False)
    classes.put(torch.tensor([3]), {"logits": torch.ones(1, 3)}, mask)
    assert classes.get(torch.tensor([3]), 3, mask) is not None and not caplog.records
    moving = TeacherCache(tmp_path / "moving", "key", num_rows=10, width=4, one_width=False)
    for _ in range(2):
        moving.put(torch.tensor([3]), {"logits": torch.ones(1, 4)}, mask)
    assert caplog.text.count("padded on the left, each to a width of its own; set ignore_padding") == 1
    assert moving.get(torch.tensor([3]), 4, mask) is None
