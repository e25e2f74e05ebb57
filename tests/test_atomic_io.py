"""A file that has its final name is complete, also after a power failure."""

import ast
import os
from pathlib import Path

import pytest
import torch

from helpers import ROOT
from helpers.exports import export_model, make_bert, quantize_model
from sparsification.atomic_io import atomic_path, atomic_remove, atomic_replace, atomic_write_dir, atomic_write_text
from sparsification.distillation.teacher_cache import TeacherCache
from sparsification.quantization.checkpoint import save_quantization
from sparsification.tasks.question_answering.nbest_json import write_json
from sparsification.trainer.checkpoints import is_leftover


def write_folder(folder: Path) -> None:
    with atomic_write_dir(folder, "a test") as staging:
        (staging / "file").write_text("new")


def replace_folder(folder: Path) -> None:
    (folder / "source").mkdir()
    (folder / "source" / "file").write_text("new")
    atomic_replace(folder / "source", folder / "target")


def keep_logits(folder: Path) -> None:
    cache = TeacherCache(folder, "key", num_rows=4, width=8)
    cache.put(torch.tensor([1]), {"start_logits": torch.ones(1, 8), "end_logits": torch.ones(1, 8)})


WRITERS = {
    "text": lambda folder: atomic_write_text(folder / "file", "new"),
    "folder's files": write_folder,
    "folder": replace_folder,
    "answers": lambda folder: write_json(str(folder / "file"), {"a": 1}),
    "quantization ranges": lambda folder: save_quantization(quantize_model(make_bert()), folder),
    "teacher's logits": keep_logits,
    "exported model": lambda folder: export_model(make_bert(), folder),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_content_is_on_the_disk_before_the_name_and_the_name_at_the_end(writer, tmp_path, monkeypatch):
    synced, named = set(), []
    sync, replace = os.fsync, os.replace

    def note_sync(descriptor):
        sync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def note_name(source, target):
        files = [Path(source), *Path(source).rglob("*")]
        assert {path.stat().st_ino for path in files} <= synced, target
        replace(source, target)
        folder = Path(target).parent.stat().st_ino
        synced.discard(folder)  # it has to be synced again
        named.append(folder)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_name)
    WRITERS[writer](tmp_path)
    assert named and set(named) <= synced


def test_failed_write_leaves_the_old_content_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    atomic_write_text(path, "old")
    with pytest.raises(KeyError), atomic_path(path) as partial:
        partial.write_text("ne")
        raise KeyError
    assert [file.name for file in tmp_path.iterdir()] == ["file"] and path.read_text() == "old"


def test_file_is_written_beside_its_place_and_a_killed_run_leaves_no_work(tmp_path):
    with atomic_path(tmp_path / "file") as partial:
        assert partial.parent == tmp_path and is_leftover(partial)
        partial.write_text("new")
    assert (tmp_path / "file").read_text() == "new" and not is_leftover(tmp_path / "file")


def test_folder_goes_under_another_name(tmp_path, monkeypatch):
    (tmp_path / "checkpoint-1" / "inner").mkdir(parents=True)
    renamed = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (renamed.append(Path(target)), replace(source, target)))
    atomic_remove(tmp_path / "checkpoint-1")
    assert list(tmp_path.iterdir()) == [] and all(is_leftover(path) for path in renamed) and renamed


def test_no_other_module_renames_what_it_has_written():
    for path in (ROOT / "sparsification").rglob("*.py"):
        calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        names = [call for call in calls if isinstance(call, ast.Attribute)]
        renames = [n for n in names if n.attr in ("rename", "renames")]
        renames += [n for n in names if n.attr == "replace" and isinstance(n.value, ast.Name) and n.value.id == "os"]
        assert not renames or path.name == "atomic_io.py", f"{path}, line {renames[0].lineno}: use atomic_io"
