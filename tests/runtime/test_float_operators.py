"""The fp32 operators compute what numpy computes, to the same bits on every instruction set, whatever a file holds."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from helpers.exports import needs_compiler
from helpers.operators import each_instruction_set, gelu, make_session, pack, property_test, replaced

# One Linear layer


def _linear_case(tokens: int, inputs: int, outputs: int, density: float, seed: int, width: int = 1) -> dict:
    """A random layer; of the entries of its weight so many are kept, each second row has none or all at times."""
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(outputs, inputs)).astype(np.float32)
    share = np.full((outputs, 1), density)
    share[1::2] = generator.choice([0.0, density, 1.0])
    keep = generator.random((outputs, -(-inputs // width))) < share
    return {
        "x": generator.normal(size=(tokens, inputs)).astype(np.float32),
        "weight": weight * keep.repeat(width, axis=1)[:, :inputs],
        "bias": generator.normal(size=outputs).astype(np.float32),
        "width": width,
    }


def _linear_session(case: dict, with_gelu: bool = False, threads: int = 1, **spoilt):
    constants = pack(case["weight"], case["width"]) | {"bias": case["bias"]}
    attributes = {"inputs": case["weight"].shape[1], "gelu": int(with_gelu)}
    for name, change in spoilt.items():
        place = constants if name in constants else attributes
        place[name] = change(place[name])
    return make_session("SparseLinearFloat", {"x": case["x"]}, constants, {"y": TensorProto.FLOAT}, attributes, threads)


def _run(case: dict, **options) -> np.ndarray:
    return _linear_session(case, **options).run(None, {"x": case["x"]})[0]


linear_cases = st.builds(
    _linear_case,
    tokens=st.integers(1, 70),
    inputs=st.one_of(st.integers(1, 300), st.sampled_from([384, 801])),
    outputs=st.one_of(st.integers(1, 40), st.sampled_from([64, 130])),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from([1, 4]),
)


@needs_compiler
@property_test
@given(linear_cases)
def test_linear_is_that_of_numpy_and_the_same_everywhere(case):
    x, weight = case["x"].astype(float), case["weight"].astype(float)
    expected = x @ weight.T + case["bias"]
    # Of the rounding of a sum: a few units in the last place of what was added up.
    bound = 1e-6 * (np.abs(x) @ np.abs(weight).T + np.abs(case["bias"]))
    results = [(_run(case), _run(case, with_gelu=True)) for _ in each_instruction_set()]
    for numbers, gelus in results:
        assert (np.abs(numbers - expected) <= bound).all()
        np.testing.assert_allclose(gelus, gelu(numbers), rtol=1e-7, atol=1.5e-7)
        np.testing.assert_array_equal(numbers, results[0][0])
        np.testing.assert_array_equal(gelus, results[0][1])


@needs_compiler
def test_blocks_and_single_weights_give_the_same_bits():
    case = _linear_case(70, 300, 90, 0.3, 0, width=4)
    np.testing.assert_array_equal(_run(case), _run(case | {"width": 1}))


@needs_compiler
def test_a_token_that_is_not_finite_changes_no_other():
    case = _linear_case(66, 200, 40, 0.1, 0)
    expected = _run(case)
    case["x"][3], case["x"][65] = np.nan, np.inf
    others = np.delete(np.arange(66), [3, 65])
    np.testing.assert_array_equal(_run(case)[others], expected[others])


@needs_compiler
@pytest.mark.parametrize("tokens", [30, 90, 300])
def test_batches_and_threads_change_nothing(tokens):
    case = _linear_case(tokens, 640, 200, 0.2, 0)
    expected = _run(case).reshape(2, 3, -1, 200)
    case["x"] = case["x"].reshape(2, 3, -1, 640)
    session, results = _linear_session(case, threads=2), []
    workers = [threading.Thread(target=lambda: results.append(session.run(None, {"x": case["x"]})[0])) for _ in "1234"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, expected)
    assert session.run(None, {"x": case["x"][:, :0]})[0].shape == (2, 0, tokens // 6, 200)


# Two layers of a feed-forward block


def _feed_forward_session(case: dict, second: dict, threads: int = 1, **spoilt):
    constants = pack(case["weight"], case["width"]) | {"bias": case["bias"]}
    last = pack(second["weight"], second["width"]) | {"bias": second["bias"]}
    constants |= {f"second_{name}": array for name, array in last.items()}
    constants |= {name: change(constants[name]) for name, change in spoilt.items()}
    attributes = {"inputs": case["weight"].shape[1], "gelu": 1}
    outputs = {"y": TensorProto.FLOAT}
    return make_session("SparseFeedForwardFloat", {"x": case["x"]}, constants, outputs, attributes, threads)


@needs_compiler
@property_test
@given(linear_cases, st.integers(1, 150), st.sampled_from([1, 2]))
def test_feed_forward_block_gives_the_bits_of_its_two_layers(case, outputs, threads):
    second = _linear_case(len(case["x"]), len(case["weight"]), outputs, 0.1, 0)
    session = _feed_forward_session(case, second, threads)
    for _ in each_instruction_set():
        expected = _run(second | {"x": _run(case, with_gelu=True)})
        np.testing.assert_array_equal(session.run(None, {"x": case["x"]})[0], expected)


@needs_compiler
@pytest.mark.parametrize("tokens", [30, 90, 150, 300])
def test_feed_forward_block_is_the_same_in_batches_and_on_two_threads(tokens):
    case, second = _linear_case(tokens, 200, 150, 0.2, 0), _linear_case(1, 150, 90, 0.2, 1)
    expected = _feed_forward_session(case, second).run(None, {"x": case["x"]})[0].reshape(2, 3, -1, 90)
    x = case["x"].reshape(2, 3, -1, 200)
    session = _feed_forward_session(case | {"x": x}, second, threads=2)
    for _ in range(5):
        np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)


@needs_compiler
@pytest.mark.parametrize(
    ("message", "change"),
    [
        ("beyond its inputs", {"second_gaps": replaced(-1, 200)}),
        ("bias does not have a number for each", {"second_bias": lambda array: array[1:]}),
        ("more entries than there are inputs", {"second_counts": replaced(0, 21)}),
    ],
)
def test_hostile_second_layer_is_refused_when_the_session_is_made(message, change):
    with pytest.raises(Exception, match=message):
        _feed_forward_session(_linear_case(2, 100, 20, 0.5, 0), _linear_case(2, 20, 30, 0.5, 0), **change)


# What a file may hold


HOSTILE = [
    ("more entries than there are inputs", {"counts": replaced(0, 101)}),
    ("rows' entries are not as many", {"counts": replaced(0, 0)}),
    ("has no outputs", {"counts": lambda array: array[:0], "bias": lambda array: array[:0]}),
    ("beyond its inputs", {"gaps": replaced(-1, 200)}),
    ("not one or four for each gap", {"values": lambda array: array[:-1]}),
    ("not one or four for each gap", {"values": lambda array: array.reshape(1, -1)}),
    ("bias does not have a number for each", {"bias": lambda array: np.append(array, array)}),
    ("inputs is out of range", {"inputs": lambda value: 2**40}),
    ("gelu is out of range", {"gelu": lambda value: 2}),
    ("more entries than there are inputs", {"inputs": lambda value: 12}),
]


@needs_compiler
@pytest.mark.parametrize(("message", "change"), HOSTILE)
def test_hostile_weight_is_refused_when_the_session_is_made(message, change):
    with pytest.raises(Exception, match=message):
        _linear_session(_linear_case(2, 100, 20, 0.5, 0), **change)


@needs_compiler
def test_table_of_rows_that_would_be_larger_than_the_file_is_refused():
    """2 million rows of 512 slices: of one byte each a gigabyte."""
    rows = 2**21
    constants = {
        "counts": np.zeros(rows, np.uint32),
        "gaps": np.zeros(0, np.uint8),
        "values": np.zeros(0, np.float32),
        "bias": np.zeros(rows, np.float32),
    }
    feeds, outputs = {"x": np.zeros((1, 65536), np.float32)}, {"y": TensorProto.FLOAT}
    with pytest.raises(Exception, match="too few entries for as many inputs and outputs"):
        make_session("SparseLinearFloat", feeds, constants, outputs, {"inputs": 65536, "gelu": 0})


@needs_compiler
def test_input_of_another_width_is_refused():
    case = _linear_case(2, 100, 20, 0.5, 0)
    with pytest.raises(Exception, match="not as wide as the weight"):
        _linear_session(case).run(None, {"x": case["x"][:, :-1]})


# Attention


@st.composite
def attention_cases(draw):
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, heads, size = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 40))
    length = draw(st.one_of(st.integers(1, 70), st.just(130)))
    mask = np.where(generator.random((draw(st.sampled_from([1, batch])), 1, 1, length)) < 0.8, 0.0, -3.402823466e38)
    kind = draw(st.sampled_from(["each row", "each query", "padding", "all hidden"]))
    if kind == "each query":
        mask = generator.normal(size=(batch, 1, length, length))
    elif kind == "padding":
        mask = np.where(np.arange(length) < generator.integers(1, length + 1), 0.0, -3.402823466e38)[None, None, None]
    elif kind == "all hidden":
        mask[:] = -3.402823466e38
    shape = (batch, length, heads * size)
    return {
        **{name: generator.normal(size=shape).astype(np.float32) for name in ("query", "key", "value")},
        "mask": mask.astype(np.float32),
        "heads": heads,
        "scale": float(np.float32(size**-0.5)),
    }


def _attention(case: dict) -> np.ndarray:
    """Attention in float64."""
    batch, length, width = case["query"].shape
    query, key, value = (
        case[name].astype(float).reshape(batch, length, case["heads"], -1).transpose(0, 2, 1, 3)
        for name in ("query", "key", "value")
    )
    # In fp32, as any engine adds it: of scores that are all hidden nothing is left.
    scores = (query @ key.transpose(0, 1, 3, 2) * case["scale"]).astype(np.float32) + case["mask"]
    powers = np.exp(scores.astype(float) - scores.max(-1, keepdims=True))
    context = powers / powers.sum(-1, keepdims=True) @ value
    return context.transpose(0, 2, 1, 3).reshape(batch, length, width)


def _attention_session(feeds: dict, heads: int, scale: float, offsets=(0, 0, 0), threads: int = 1):
    width = min(feeds[name].shape[-1] - offset for name, offset in zip(feeds, offsets, strict=False))
    attributes = {"heads": heads, "head_size": width // heads, "score_scale": scale}
    names = ("query_offset", "key_offset", "value_offset")
    attributes |= dict(zip(names, offsets, strict=True))
    return make_session("FloatAttention", feeds, {}, {"y": TensorProto.FLOAT}, attributes, threads)


@needs_compiler
@property_test
@given(attention_cases())
def test_attention_is_that_of_numpy_and_the_same_everywhere(case):
    feeds = {name: case[name] for name in ("query", "key", "value", "mask")}
    session, expected, first = _attention_session(feeds, case["heads"], case["scale"]), _attention(case), None
    for _ in each_instruction_set():
        actual = session.run(None, feeds)[0]
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
        first = actual if first is None else first
        np.testing.assert_array_equal(actual, first)
    two = _attention_session(feeds, case["heads"], case["scale"], threads=2)
    np.testing.assert_array_equal(two.run(None, feeds)[0], first)


@needs_compiler
def test_one_tensor_of_query_key_and_value_gives_the_same():
    generator = np.random.default_rng(0)
    parts = {name: generator.normal(size=(2, 20, 32)).astype(np.float32) for name in ("query", "key", "value")}
    mask = np.zeros((2, 1, 1, 20), np.float32)
    apart = _attention_session(parts | {"mask": mask}, 2, 0.25).run(None, parts | {"mask": mask})[0]
    feeds = dict.fromkeys(parts, np.concatenate(list(parts.values()), -1)) | {"mask": mask}
    session = _attention_session(feeds, 2, 0.25, (0, 32, 64))
    np.testing.assert_array_equal(session.run(None, feeds)[0], apart)
    wrong = {
        "too narrow": {"value": feeds["value"][..., :-1]},
        "differ in batch or length": {"key": feeds["key"][:, :-1]},
        "mask is no": {"mask": np.zeros((1, 1, 1, 19), np.float32)},
    }
    for message, change in wrong.items():
        with pytest.raises(Exception, match=message):
            session.run(None, feeds | change)


# Residual sum and LayerNormalization


@needs_compiler
@property_test
@given(st.integers(1, 20), st.integers(1, 90), st.integers(0, 2**32 - 1))
def test_norm_gives_the_numbers_of_the_one_that_quantizes(length, size, seed):
    generator = np.random.default_rng(seed)
    feeds = {name: generator.normal(1, 2, (2, length, size)).astype(np.float32) for name in ("a", "b")}
    constants = {name: generator.normal(size=size).astype(np.float32) for name in ("gamma", "beta")}
    outputs, scales = {"y": TensorProto.FLOAT}, {"scale": 0.02, "zero_point": 120}
    norm = make_session("AddNorm", feeds, constants, outputs, {"epsilon": 1e-5})
    quantizing = make_session(
        "AddNormQuantize", feeds, constants, outputs | {"q": TensorProto.UINT8}, {"epsilon": 1e-5} | scales
    )
    for _ in each_instruction_set():
        np.testing.assert_array_equal(norm.run(None, feeds)[0], quantizing.run(None, feeds)[0])
