"""Fixtures of all tests: a BERT of two small layers and a SQuAD of a few made-up paragraphs."""

import gc
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.data import PLACES, squad_json


@pytest.fixture(autouse=True, scope="module")
def _own_settings() -> Iterator[None]:
    """Take back after each file what the script sets for its whole process, so that the files' order is free."""
    import datasets
    from transformers.utils import logging as transformers_logging

    libraries = (transformers_logging, datasets.utils.logging)
    scripts = [logging.getLogger("sparsification")]
    before = [library.get_verbosity() for library in libraries], [script.level for script in scripts]
    bars = transformers_logging.is_progress_bar_enabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "environ", os.environ)  # datasets puts a copy in its place when it maps in processes
        patch.setenv("TENSORBOARD_LOGGING_DIR", "runs")  # so that it is put back
        patch.delenv("TENSORBOARD_LOGGING_DIR")
        yield
    for library, level in zip(libraries, before[0], strict=True):
        library.set_verbosity(level)
    for script, level in zip(scripts, before[1], strict=True):
        script.setLevel(level)
    if bars:
        transformers_logging.enable_progress_bar()


@pytest.fixture(autouse=True, scope="module")
def _what_is_imported_is_never_garbage() -> None:
    """Spare each garbage collection a walk over the libraries' half a million objects.

    Trainer.train collects at its start: 0.2 seconds, as long as the training of a tiny model.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _private_datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Point the datasets library at a cache of this test run."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets_cache")


@pytest.fixture(scope="session")
def tiny_squad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder with train.json and validation.json: nested SQuAD v1.1, 18 and 6 questions."""
    folder = tmp_path_factory.mktemp("tiny_squad")
    (folder / "train.json").write_text(json.dumps(squad_json(PLACES[:6])), encoding="utf-8")
    (folder / "validation.json").write_text(json.dumps(squad_json(PLACES[6:])), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_squad_v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the same folder with one more question a paragraph, which has no answer: 24 and 8 questions."""
    folder = tmp_path_factory.mktemp("tiny_squad_v2")
    (folder / "train.json").write_text(json.dumps(squad_json(PLACES[:6], impossible=True)), encoding="utf-8")
    (folder / "validation.json").write_text(json.dumps(squad_json(PLACES[6:], impossible=True)), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Give the tokenizer of tiny_model_dir."""
    from helpers.models import build_tiny_tokenizer

    return build_tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a random BERT for question answering (2 layers, hidden size 32, 128 positions) and its tokenizer."""
    from helpers.models import save_tiny_bert

    folder = tmp_path_factory.mktemp("tiny_bert")
    save_tiny_bert(folder, hidden_size=32, positions=128)
    return folder


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Save a BERT of four layers, half of the weights of layer 0's query at zero."""
    import torch
    from transformers import BertConfig, BertForQuestionAnswering

    folder = tmp_path_factory.mktemp("bert")
    config = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32)
    model = BertForQuestionAnswering(config)
    with torch.no_grad():
        model.bert.encoder.layer[0].attention.self.query.weight[:8] = 0.0
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def fast_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the TorchScript exporter write each file, for tests of other things: it takes a tenth of dynamo's time."""
    from sparsification.export import onnx
    from sparsification.export.targets import TORCHSCRIPT

    monkeypatch.setattr(onnx, "choose_exporter", lambda *_: TORCHSCRIPT)
