"""Quantization ranges beside a checkpoint: saved, loaded and checked."""

import json

import pytest
import torch
from golden_run import load_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from helpers.quantized import batch, quantized_model
from sparsification.quantization.checkpoint import QuantizationError, load_quantization, save_quantization
from sparsification.quantization.modules import (
    enable_fake_quant,
)


def test_saved_model_is_quantized_again_bit_by_bit_and_its_checkpoint_is_plain(tmp_path):
    model, _ = quantized_model()
    model.save_pretrained(tmp_path)
    save_quantization(model, tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    fp32 = loaded(**batch()).start_logits
    enable_fake_quant(model, False)
    assert torch.allclose(fp32, model(**batch()).start_logits, atol=1e-6)  # sdpa against eager
    assert load_quantization(loaded, tmp_path)
    enable_fake_quant(model, True)
    assert torch.equal(loaded(**batch()).start_logits, model(**batch()).start_logits)
    assert not torch.equal(fp32, loaded(**batch()).start_logits)


def test_saving_a_model_that_does_not_quantize_leaves_no_ranges_behind(tmp_path):
    model, _ = quantized_model()
    save_quantization(model, tmp_path)
    enable_fake_quant(model, False)
    save_quantization(model, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not load_quantization(load_model("model_student"), tmp_path)


@pytest.mark.parametrize("bits", [10**12, 9, 1, -3, "8", 8.0, None, True])
def test_number_of_bits_in_a_file_is_checked_before_it_is_a_power_of_2(bits, tmp_path):
    save_quantization(quantized_model()[0], tmp_path)
    path = tmp_path / "quantization.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    schemes = json.loads(metadata["schemes"])
    next(qargs for scheme in schemes.values() for qargs in scheme.values() if qargs)["bits"] = bits
    save_file(load_file(path), path, metadata | {"schemes": json.dumps(schemes)})
    with pytest.raises(QuantizationError, match=r"bits must be 2 to 8, got "):
        load_quantization(load_model("model_student"), tmp_path)


def test_ranges_of_another_model_are_refused(tmp_path):
    model, _ = quantized_model()
    save_quantization(model, tmp_path)
    other = load_model("model_student")
    del other.bert.encoder.layer[2:]
    with pytest.raises(QuantizationError, match="was not saved with this model"):
        load_quantization(other, tmp_path)
    (tmp_path / "quantization.safetensors").write_bytes(b"no such thing")
    with pytest.raises(QuantizationError, match="is not a file of quantization ranges"):
        load_quantization(load_model("model_student"), tmp_path)
