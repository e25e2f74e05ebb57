"""What serves the files of a plan."""

import sys

import numpy as np
import pytest

from helpers.exports import needs_compiler
from sparsification.plan.engines import OPERATORS, PROVIDER, identity, served, session
from sparsification.plan.layer_files import write_float_layer
from sparsification.plan.units import PlanError


@pytest.fixture
def layer(tmp_path):
    """File of a layer with 90 % zeros."""
    weight = np.random.default_rng(0).normal(size=(32, 64)).astype(np.float32)
    weight[np.abs(weight) < np.quantile(np.abs(weight), 0.9)] = 0
    return write_float_layer(weight, tmp_path / "layer.onnx")


@needs_compiler
def test_operators_have_a_file_of_their_own(layer):
    path = served(layer, OPERATORS)
    assert path != layer and path.name == "layer.sparse.onnx"
    inputs = {"x": np.random.default_rng(1).normal(size=(1, 3, 64)).astype(np.float32)}
    own, dense = (session(file, OPERATORS, 1).run(None, inputs)[0] for file in (path, layer))
    np.testing.assert_allclose(own, dense, atol=1e-4)


def test_provider_takes_the_file_as_it_is(layer):
    assert served(layer, PROVIDER) == layer


def test_provider_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_sparse", None)  # an import of it fails
    with pytest.raises(PlanError, match="--engine provider: onnxruntime-ep-sparse cannot be used"):
        identity(PROVIDER)
