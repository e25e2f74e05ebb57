"""Each family of encoders is pruned, quantized and exported by one run, as docs/encoders.md says."""

import encoder_study
import onnx
import pytest

from helpers.command_lines import FAST_EXPORT
from helpers.tiny_encoders import FAMILIES, save_tiny_encoder

ROWS = {
    cells[0]: dict(zip(encoder_study.COLUMNS, cells[1:], strict=True))
    for line in encoder_study.PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| ")
    for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
}


def test_page_has_a_row_for_each_family():
    assert list(ROWS) == ["encoder", *FAMILIES]
    assert all(cell == "yes" or cell.startswith("no (") for name in FAMILIES for cell in ROWS[name].values())


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_pruned_quantized_and_exported_as_the_page_says(tmp_path, family):
    encoder_study.prepare(tmp_path)
    save_tiny_encoder(family, tmp_path / family / "model")
    words = encoder_study.outcome(
        lambda: encoder_study.quantize(tmp_path, family, "onnxruntime", *FAST_EXPORT), tmp_path
    )
    assert (words == "yes") == (ROWS[family]["ONNX"] == "yes"), words
    if words == "yes":
        onnx.checker.check_model(tmp_path / family / "int8" / "model.onnx", full_check=True)
    else:
        assert f"`{words}`" in encoder_study.PAGE.read_text(encoding="utf-8")
        assert not (tmp_path / family / "quantized").exists()  # refused before training
