"""Pooling and normalization, and the files of sentence-transformers that name them."""

import json
from pathlib import Path

import pytest
import torch

from sparsification.tasks.embedding.modules import SentenceModules, load_modules
from sparsification.tasks.errors import DataError

# The files of sentence-transformers/all-MiniLM-L6-v2.
RECORDED = {
    "modules.json": [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ],
    "1_Pooling/config.json": {
        "word_embedding_dimension": 384,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
    },
    "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
}
MASK = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])


def write(folder: Path, files: dict) -> Path:
    for name, value in files.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(json.dumps(value))
    return folder


def pooling(config: dict) -> dict:
    return {**RECORDED, "1_Pooling/config.json": config}


def test_recorded_files_are_read_and_written_with_the_same_meaning(tmp_path):
    modules = load_modules(write(tmp_path / "in", RECORDED))
    assert (modules.pooling, modules.normalize, modules.max_length) == ("mean", True, 256)
    (tmp_path / "out").mkdir()
    modules.save(tmp_path / "out", 384)
    for name, value in RECORDED.items():
        written = json.loads((tmp_path / "out" / name).read_text())
        assert written == value | {"pooling_mode_lasttoken": False} if name.startswith("1_") else written == value
    assert load_modules(tmp_path / "out") == modules


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"embedding_dimension": 8, "pooling_mode": "max"}, "max"),  # of newer versions
        ({"embedding_dimension": 8, "pooling_mode": ["lasttoken"]}, "lasttoken"),
    ],
)
def test_pooling_modes_of_all_versions_are_read(config, mode, tmp_path):
    assert load_modules(write(tmp_path, pooling(config))).pooling == mode


def test_a_model_without_these_files_gets_mean_pooling_and_normalization(tmp_path):
    assert load_modules(tmp_path) == SentenceModules("mean", normalize=True)


def test_a_model_without_normalization_keeps_its_lengths(tmp_path):
    modules = load_modules(write(tmp_path, RECORDED | {"modules.json": RECORDED["modules.json"][:2]}))
    assert not modules.normalize
    modules.save(tmp_path, 8)
    assert len(json.loads((tmp_path / "modules.json").read_text())) == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"modules.json": [{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]}, "got Dense"),
        (pooling({"pooling_mode_weightedmean_tokens": True}), "pooling mode must be one of mean, cls.*weightedmean"),
        (pooling({"pooling_mode": ["mean", "cls"]}), "pooling mode must be one of .* got mean, cls"),
        ({"modules.json": {"a": 1}}, "cannot be read"),
    ],
)
def test_what_is_not_supported_is_refused(files, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load_modules(write(tmp_path, files))


@pytest.mark.parametrize("normalize", [False, True])
def test_pooling_leaves_padding_out(normalize):
    hidden = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    real = [hidden[0, :3], hidden[1, :1]]
    expected = {
        "mean": [rows.mean(0) for rows in real],
        "max": [rows.max(0).values for rows in real],
        "cls": [rows[0] for rows in real],
        "lasttoken": [rows[-1] for rows in real],
        "mean_sqrt_len_tokens": [rows.sum(0) / len(rows) ** 0.5 for rows in real],
    }
    for mode, rows in expected.items():
        rows = torch.stack(rows)
        rows = rows / rows.norm(dim=1, keepdim=True) if normalize else rows
        torch.testing.assert_close(SentenceModules(mode, normalize).embed(hidden, MASK), rows)
