"""Ranges, integers and rounding of fake quantization."""

import pytest
import torch

from sparsification.quantization.fake_quantize import FakeQuantize, QuantizationArgs, calculate_qparams


@pytest.mark.parametrize(("low", "high"), [(-0.3, 1.7), (0.2, 1.0), (-1.0, -0.5), (0.0, 0.0), (-7e-9, 3e-9)])
@pytest.mark.parametrize(
    "qargs", [QuantizationArgs(symmetric=True), QuantizationArgs(symmetric=False), QuantizationArgs(bits=4)]
)
def test_integers_cover_the_range_and_represent_zero(low, high, qargs):
    scale, zero_point = calculate_qparams(torch.tensor(low), torch.tensor(high), qargs)
    assert scale > 0
    assert qargs.quant_min <= zero_point <= qargs.quant_max
    for end in (low, high, 0.0):
        nearest = torch.round(torch.tensor(end) / scale) + zero_point
        inside = nearest.clamp(qargs.quant_min, qargs.quant_max)
        assert abs(float((inside - zero_point) * scale) - end) <= float(scale)  # one step at the ends, 0 for 0
    assert float((zero_point - zero_point) * scale) == 0.0


@pytest.mark.parametrize(
    "qargs",
    [
        QuantizationArgs(),
        QuantizationArgs(symmetric=False),
        QuantizationArgs(per_channel=True),
        QuantizationArgs(bits=7),
    ],
)
def test_quantized_integers_are_those_of_fake_quantization(qargs):
    x = torch.randn(6, 50)
    quantizer = FakeQuantize(qargs, 6)
    quantizer.observe(x * 0.8)
    shape = (6, 1) if qargs.per_channel else ()
    integers = quantizer.quantize(x)
    assert integers.dtype == (torch.int8 if qargs.symmetric else torch.uint8)
    assert integers.float().max() <= qargs.quant_max and integers.float().min() >= qargs.quant_min
    numbers = (integers.float() - quantizer.zero_point.reshape(shape)) * quantizer.scale.reshape(shape)
    torch.testing.assert_close(numbers, quantizer.fake_quantize(x), rtol=0, atol=1e-6)
    assert (numbers - x).abs()[x.abs() < 0.5].max() <= quantizer.scale.max() / 2 + 1e-6


@pytest.mark.parametrize(
    "qargs",
    [
        QuantizationArgs(),
        QuantizationArgs(symmetric=False),
        QuantizationArgs(per_channel=True),
        QuantizationArgs(bits=4),
    ],
)
@pytest.mark.parametrize("shape", [(6, 50), (6, 3, 4, 17)])
def test_rounding_on_a_cpu_is_torchs_own_bit_by_bit(qargs, shape):
    torch.manual_seed(0)
    x = torch.randn(shape)
    quantizer = FakeQuantize(qargs, 6)
    quantizer.observe(x * 0.5)  # so that some of it lies outside
    x.flatten()[:2] = torch.stack([quantizer.min_val.flatten()[0], quantizer.max_val.flatten()[0]])  # some on the edge
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    ends = qargs.quant_min, qargs.quant_max
    if qargs.per_channel:
        expected = torch.fake_quantize_per_channel_affine(theirs, quantizer.scale, quantizer.zero_point, 0, *ends)
    else:
        expected = torch.fake_quantize_per_tensor_affine(theirs, quantizer.scale, quantizer.zero_point, *ends)
    rounded = quantizer(ours)
    assert torch.equal(rounded, expected)
    gradient = torch.randn(shape)
    rounded.backward(gradient)
    expected.backward(gradient)
    assert torch.equal(ours.grad, theirs.grad)
    assert 0 < int((ours.grad == 0).sum()) < x.numel() / 2


def test_gradients_pass_within_the_range_and_stop_outside():
    quantizer = FakeQuantize(QuantizationArgs(symmetric=False))
    quantizer.observe(torch.tensor([-1.0, 1.0]))
    x = torch.tensor([-5.0, -0.5, 0.0, 0.7, 5.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
