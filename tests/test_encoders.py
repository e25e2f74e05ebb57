"""Each family of encoders is pruned, quantized and exported by one run, as docs/encoders.md says."""

import encoder_study
import onnx
import pytest
import task_study

from helpers.command_lines import FAST_EXPORT
from helpers.studies import PAGE, outcome, read_table
from helpers.tiny_encoders import FAMILIES, save_tiny_encoder

COLUMNS = {encoder_study.TITLE: encoder_study.COLUMNS, task_study.TITLE: tuple(task_study.TASKS)}


@pytest.mark.parametrize("title", COLUMNS)
def test_page_has_a_row_for_each_family(title):
    rows = read_table(title)
    assert list(rows) == list(FAMILIES)
    for cells in rows.values():
        assert tuple(cells) == COLUMNS[title]
        assert all(cell == "yes" or cell.startswith("no (") for cell in cells.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_pruned_quantized_and_exported_as_the_page_says(tmp_path, family):
    encoder_study.prepare(tmp_path)
    save_tiny_encoder(family, tmp_path / family / "model")
    words = outcome(lambda: encoder_study.quantize(tmp_path, family, "onnxruntime", *FAST_EXPORT), tmp_path)
    assert (words == "yes") == (read_table(encoder_study.TITLE)[family]["ONNX"] == "yes"), words
    if words == "yes":
        onnx.checker.check_model(tmp_path / family / "int8" / "model.onnx", full_check=True)
    else:
        assert f"`{words}`" in PAGE.read_text(encoding="utf-8")
        assert not (tmp_path / family / "quantized").exists()  # refused before training


@pytest.mark.parametrize(
    ("family", "task"),
    [
        ("BART", "text classification"),  # the head needs the end token of each row
        ("BART", "token classification"),  # there is no such model
        ("RoBERTa", "token classification"),  # its tokenizer makes tokens of blanks alone
        ("DistilBERT", "token classification"),  # its model for questions takes no other number of labels
    ],
)
def test_family_does_a_task_as_the_page_says(tmp_path, family, task):
    task_study.prepare(tmp_path)
    save_tiny_encoder(family, tmp_path / family / "model", "Model", task_study.SCALE)
    words = outcome(lambda: task_study.try_task(tmp_path, family, task, *FAST_EXPORT), tmp_path)
    assert (words == "yes") == (read_table(task_study.TITLE)[family][task] == "yes"), words
    assert words == "yes" or f"`{words}`" in PAGE.read_text(encoding="utf-8")
