"""Whether the execution provider of onnxruntime-ep-sparse is used, with and without the package."""

import logging
import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest

from helpers.exports import OUTPUTS, export_model, make_batch, make_bert, prune_model, quantize_model
from sparsification import runtime
from sparsification.runtime.provider import provider_options


@pytest.fixture
def exported(tmp_path):
    export_model(quantize_model(prune_model(make_bert(1))), tmp_path)
    return tmp_path, {name: tensor.numpy() for name, tensor in make_batch(2, 9).items()}


def use_package(monkeypatch, library, make_options=onnxruntime.SessionOptions):
    """Another package in the place of the real one."""
    fake = SimpleNamespace(get_library_path=lambda: str(library), session_options=make_options)
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_sparse", fake)


def test_without_the_package_the_session_is_the_plain_one(exported, monkeypatch, caplog):
    folder, feed = exported
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_sparse", None)  # an import of it fails
    expected = runtime.load_session(folder).run(OUTPUTS, feed)
    with caplog.at_level(logging.INFO):
        session = runtime.load_session(folder, sparse_provider=True)
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert caplog.messages == [f"{folder / 'model.onnx'} runs on ONNX Runtime's CPU provider."]
    for one, other in zip(session.run(OUTPUTS, feed), expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_package_without_a_library_is_not_used(monkeypatch, tmp_path):
    use_package(monkeypatch, tmp_path / "missing.so")
    assert provider_options() is None


def test_runtime_that_does_not_serve_the_package_is_a_warning(monkeypatch, tmp_path, caplog):
    def refuse():
        raise RuntimeError("SparseExecutionProvider needs ONNX Runtime 1.23 or later, this is 1.22.0")

    (tmp_path / "library.so").touch()
    use_package(monkeypatch, tmp_path / "library.so", refuse)
    assert provider_options() is None
    assert caplog.messages == [
        "onnxruntime-ep-sparse is not used: SparseExecutionProvider needs ONNX Runtime 1.23 or later, this is 1.22.0"
    ]


def test_options_of_the_package_are_used_where_they_are_wanted(exported, monkeypatch, caplog):
    folder, feed = exported
    made = []

    def make_options():
        made.append(onnxruntime.SessionOptions())
        return made[-1]

    (folder / "library.so").touch()
    use_package(monkeypatch, folder / "library.so", make_options)
    assert runtime.load_session(folder).run(OUTPUTS, feed)
    assert not made
    with caplog.at_level(logging.INFO):
        session = runtime.load_session(folder, threads=2, sparse_provider=True)
    assert caplog.messages == [f"{folder / 'model.onnx'} runs on the execution provider of onnxruntime-ep-sparse."]
    assert [options.intra_op_num_threads for options in made] == [2]
    assert session.run(OUTPUTS, feed)
