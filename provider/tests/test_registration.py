"""Registration, options, sessions beside each other, and a runtime that is too old."""

import ctypes
import os
import subprocess
import sys
import threading

import numpy as np
import onnxruntime
import pytest
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from random_graphs import LEVELS, make_graph

import onnxruntime_ep_sparse as sparse
from onnxruntime_ep_sparse.__main__ import main

CASE = {
    "inputs": 64, "outputs": [48, 32], "shape": (2, 7), "zeros": 0.9, "bias": True, "channel": True, "shares": True,
    "quantize": True, "also_output": False, "level": LEVELS[2], "fuse": True, "static": False,
    "form": "QDQ", "weights": "int8", "signed": False, "signed_output": False, "seed": 1,
}  # fmt: skip


def test_names():
    assert sparse.get_ep_names() == [sparse.get_ep_name()] == ["SparseExecutionProvider"]
    sparse.register()
    (device,) = [one for one in onnxruntime.get_ep_devices() if one.ep_name == sparse.get_ep_name()]
    assert device.ep_vendor == "sparsification"


def test_registering_twice_is_no_error():
    sparse.register()
    sparse.register()
    assert sum(one.ep_name == sparse.get_ep_name() for one in onnxruntime.get_ep_devices()) == 1


def run_python(code, **environment):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    command = [sys.executable, "-c", "import onnxruntime, onnxruntime_ep_sparse as sparse; sparse.register(); " + code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)


def test_library_that_was_unregistered_is_registered_again():
    code = "onnxruntime.unregister_execution_provider_library(sparse.get_ep_name()); sparse.register(); print('done')"
    result = run_python(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


def test_session_outlives_the_registration_of_its_library(tmp_path):
    model, feed, _ = make_graph(CASE)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    np.save(tmp_path / "x.npy", feed["x"])
    code = f"""
import numpy
session = onnxruntime.InferenceSession({str(tmp_path / "model.onnx")!r}, sparse.session_options(always=True))
x = numpy.load({str(tmp_path / "x.npy")!r})
before = session.run(None, {{"x": x}})
onnxruntime.unregister_execution_provider_library(sparse.get_ep_name())
print(all((one == other).all() for one, other in zip(before, session.run(None, {{"x": x}}))))
del session
print("done")
"""
    result = run_python(code)
    assert (result.returncode, result.stdout) == (0, "True\ndone\n"), result.stderr


def test_environment_chooses_the_instruction_set():
    code = "print([device.ep_metadata.get('instruction_set') for device in onnxruntime.get_ep_devices()])"
    result = run_python(code, SPARSIFICATION_CPU="plain")
    assert (result.returncode, result.stdout) == (0, "[None, 'plain']\n"), result.stderr
    result = run_python(code, SPARSIFICATION_CPU="no_such_set")
    assert result.returncode == 1  # of Python: the library that is unloaded does not end the process
    assert "SPARSIFICATION_CPU=no_such_set: here there are only " in result.stderr


def test_unknown_option_is_an_error():
    with pytest.raises(TypeError, match="SparseExecutionProvider has no option 'fused'; it has always, fuse, report"):
        sparse.session_options(fused=True)


def test_option_of_another_value_is_an_error():
    model, _, _ = make_graph(CASE)
    with pytest.raises(ort_errors.InvalidArgument, match="the option fuse is 'yes'; 0 or 1 is expected"):
        onnxruntime.InferenceSession(model.SerializeToString(), sparse.session_options(fuse="yes"))


def test_sessions_beside_each_other_and_one_after_another():
    model, feed, expected = make_graph(CASE)
    names = list(expected)
    failures = []

    def work():
        for _ in range(5):
            session = onnxruntime.InferenceSession(model.SerializeToString(), sparse.session_options(always=True))
            for _ in range(20):
                for name, actual in zip(names, session.run(names, feed), strict=True):
                    if np.abs(actual.astype(int) - expected[name]).max() > 1:
                        failures.append(name)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_all_numbers_of_threads_give_the_same_bits():
    model, feed, _ = make_graph(CASE | {"shape": (1, 200), "quantize": False})
    results = []
    for threads in (1, 2, 3):
        options = sparse.session_options(always=True)
        options.intra_op_num_threads = threads
        results.append(onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, feed))
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one, two)


def test_claimed_nodes_are_the_providers():
    model, _, _ = make_graph(CASE)
    options = sparse.session_options(always=True)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = {group.ep_name for group in session.get_provider_graph_assignment_info()}
    assert names == {"SparseExecutionProvider"}


def test_runtime_that_is_too_old_is_refused_in_words():
    library = ctypes.CDLL(sparse.get_library_path())
    messages = []

    @ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p)
    def create_status(code, text):
        messages.append((code, text))
        return 1

    table = (ctypes.c_void_p * 1)(ctypes.cast(create_status, ctypes.c_void_p))

    @ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.c_uint32)
    def get_api(version):
        return ctypes.addressof(table) if version <= 22 else 0

    text = ctypes.c_char_p(b"1.22.0")

    @ctypes.CFUNCTYPE(ctypes.c_size_t)
    def get_version():
        return ctypes.cast(text, ctypes.c_void_p).value

    base = (ctypes.c_void_p * 2)(*(ctypes.cast(one, ctypes.c_void_p) for one in (get_api, get_version)))
    library.CreateEpFactories.restype = ctypes.c_void_p
    number = ctypes.c_size_t()
    factories = (ctypes.c_void_p * 1)()
    assert library.CreateEpFactories(b"sparse", base, None, factories, ctypes.c_size_t(1), ctypes.byref(number)) == 1
    assert messages == [(1, b"SparseExecutionProvider needs ONNX Runtime 1.23 or later, this is 1.22.0")]


def test_python_package_that_is_too_old_is_refused_in_words(monkeypatch):
    monkeypatch.delattr(onnxruntime, "register_execution_provider_library")
    with pytest.raises(RuntimeError, match="SparseExecutionProvider needs ONNX Runtime 1.23 or later, this is "):
        sparse.session_options()


def test_explain_of_no_file(tmp_path, capsys):
    assert main(["explain", str(tmp_path / "model.onnx")]) == 1
    assert "model.onnx is not a file; an ONNX file is expected" in capsys.readouterr().err
