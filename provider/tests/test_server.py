"""The example server, started as a process and asked over HTTP."""

import contextlib
import http.client
import json
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from helpers.exports import export_model, make_bert, prune_model, quantize_model

FOLDER = Path(__file__).resolve().parents[1]
EXPECTED = '{"inputs": [...]} is expected, with at least one text or pair of texts'


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Folder of a model, and the address of its server."""
    folder = tmp_path_factory.mktemp("model")
    export_model(quantize_model(prune_model(make_bert(1))), folder)
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 1, "one": 5, "two": 6, "three": 7}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    with serve(folder, "--max_length", "6") as address:
        yield folder, address


@contextlib.contextmanager
def serve(folder, *options):
    """Start the server, and give its address."""
    with start(folder, *options) as process:
        yield urlsplit(process.stdout.readline().strip())
        process.terminate()


def start(folder, *options):
    command = [sys.executable, str(FOLDER / "examples/server.py"), str(folder), "--port", "0", *options]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={"PYTHONPATH": str(FOLDER)}, **pipes)


def ask(address, body, path="/predict", **headers):
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=60)
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


def test_answers_are_the_outputs_of_the_model(served):
    folder, address = served
    status, answer = ask(address, json.dumps({"inputs": ["one two three", ["one", "three two one"], "two " * 20]}))
    assert status == 200
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    given = {"token_type_ids": ([0, 0, 0], [0, 1, 1, 1], [0] * 6), "input_ids": ([5, 6, 7], [5, 7, 6, 5], [6] * 6)}
    given["attention_mask"] = tuple([1] * len(ids) for ids in given["input_ids"])
    for index, outputs in enumerate(answer["outputs"]):
        feed = {node.name: np.array([given[node.name][index]]) for node in session.get_inputs()}
        expected = dict(zip([node.name for node in session.get_outputs()], session.run(None, feed), strict=True))
        assert outputs.keys() == expected.keys()
        for name, value in expected.items():
            assert np.shape(outputs[name]) == value[0].shape
            assert np.abs(outputs[name] - value[0]).mean() < 0.25 * value.std()  # as the export check allows


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{", f"the request is not JSON: .*; {EXPECTED}"),
        (b"\xff", f"the request is not JSON: .*; {EXPECTED}"),
        ("[]", EXPECTED),
        ('{"inputs": []}', EXPECTED),
        ('{"inputs": "one"}', EXPECTED),
        ('{"inputs": ["one", 2]}', f"inputs has 2; {EXPECTED}"),
        ('{"inputs": [["one", "two", "three"]]}', rf'inputs has ["one", "two", "three"]; {EXPECTED}'),
        ('{"inputs": [""]}', "a text has no tokens"),
    ],
)
def test_bad_input_is_told_in_one_message(served, body, message):
    status, answer = ask(served[1], body)
    assert status == 400
    assert list(answer) == ["error"]
    before, _, after = message.partition(".*")
    assert answer["error"].startswith(before)
    assert answer["error"].endswith(after)


def test_other_paths_and_long_requests_are_refused(served):
    assert ask(served[1], "{}", "/") == (404, {"error": "there is no /; POST /predict is expected"})
    status, answer = ask(served[1], "", **{"Content-Length": str(1 << 21)})
    assert (status, answer) == (413, {"error": "the request has 2097152 bytes; at most 1048576 are read"})


def test_what_the_model_cannot_compute_is_told(served):
    with serve(served[0], "--max_length", "4096") as address:  # more than it has positions
        status, answer = ask(address, json.dumps({"inputs": ["two " * 3000]}))
        assert status == 500
        assert answer["error"].startswith("the model failed: ")
        assert ask(address, json.dumps({"inputs": ["two"]}))[0] == 200


def test_a_model_of_other_inputs_is_refused_at_the_start(served, tmp_path):
    shutil.copy(served[0] / "tokenizer.json", tmp_path)
    sizes = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, [1]) for name in ("pixels", "y")]
    node = onnx.helper.make_node("Identity", ["pixels"], ["y"])
    graph = onnx.helper.make_graph([node], "other", sizes[:1], sizes[1:])
    opsets = [onnx.helper.make_opsetid("", 14)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "model.onnx")
    with start(tmp_path) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "takes pixels; expected: input_ids, attention_mask, token_type_ids" in errors
