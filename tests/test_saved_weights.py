"""Shapes of saved weights are read without the weights, and compared with the configuration before memory is used."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertModel,
    PreTrainedModel,
)

from sparsification.check.estimate import ModelError, build_model
from sparsification.distillation.teacher import load_teacher
from sparsification.errors import ManagerError
from sparsification.saved_weights import check_saved_shapes, has_weights, saved_shapes
from sparsification.tasks.question_answering.predict import PredictError, load_predictor

CONFIG = BertConfig(vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32)
HUGE = 10**10  # words: 640 GB
REFUSED = r"word_embeddings.weight must have shape \(10000000000, 16\), got \(40, 16\)"


def save(folder: Path, kind: type[PreTrainedModel] = BertForQuestionAnswering, **config: int) -> Path:
    """Save a tiny model, with some values of its configuration changed afterwards."""
    kind(CONFIG).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    return folder


def compare(folder: Path) -> None:
    check_saved_shapes(folder, AutoConfig.from_pretrained(folder), AutoModelForQuestionAnswering.from_config)


@pytest.mark.parametrize("form", ["safetensors", "sharded", "bin"])
def test_shapes_are_those_of_the_model_in_each_form_of_file(form, tmp_path):
    model = BertForQuestionAnswering(CONFIG)
    if form == "bin":
        torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    else:
        model.save_pretrained(tmp_path, max_shard_size="5KB" if form == "sharded" else "5GB")
        assert (tmp_path / "model.safetensors.index.json").is_file() == (form == "sharded")
    assert has_weights(tmp_path)
    assert saved_shapes(tmp_path) == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("kind", [BertForQuestionAnswering, BertForMaskedLM, BertModel])
def test_model_with_another_head_or_none_fits(kind, tmp_path):
    compare(save(tmp_path, kind))


def test_folder_without_weights_is_not_compared(tmp_path):
    assert not has_weights(tmp_path) and not has_weights("bert-base-uncased")
    assert saved_shapes(tmp_path) == {}
    check_saved_shapes(tmp_path, CONFIG, AutoModelForQuestionAnswering.from_config)


@pytest.mark.parametrize("kind", [BertForQuestionAnswering, BertForMaskedLM, BertModel])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"vocab_size": HUGE}, "bert.embeddings." + REFUSED),
        ({"max_position_embeddings": 513}, r"must have shape \(513, 16\), got \(512, 16\)"),
        ({"num_hidden_layers": 10**9}, r"it has 1000000000 layers, the file \d\d tensors"),
        ({"num_hidden_layers": 25}, r"it describes \d\d,\d\d\d parameters, the file has \d\d,\d\d\d"),
    ],
)
def test_configuration_that_describes_another_model_is_refused(kind, config, message, tmp_path):
    with pytest.raises(ValueError, match="config.json does not fit the weights: .*" + message):
        compare(save(tmp_path, kind, **config))


def test_damaged_index_is_refused(tmp_path):
    save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(ValueError, match="has no weight_map"):
        compare(tmp_path)


def test_everything_that_loads_a_folder_refuses_a_huge_vocabulary(tmp_path, tiny_tokenizer):
    folder = str(save(tmp_path, vocab_size=HUGE))
    tiny_tokenizer.save_pretrained(folder)
    student = BertForQuestionAnswering(CONFIG)
    with pytest.raises(ModelError, match=REFUSED):
        build_model(folder)
    with pytest.raises(PredictError, match=REFUSED):
        load_predictor(folder)
    with pytest.raises(ManagerError, match=REFUSED):
        load_teacher(folder, AutoModelForQuestionAnswering, student, tiny_tokenizer, "recipe")
