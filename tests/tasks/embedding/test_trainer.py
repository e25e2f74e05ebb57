"""The losses of embeddings against closed forms, and the teacher's embeddings as labels."""

import functools
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertModel, DataCollatorWithPadding

from helpers.models import save_bert
from sparsification.tasks.embedding.data import make_encode
from sparsification.tasks.embedding.modules import SentenceModules
from sparsification.tasks.embedding.trainer import SCALE, add_targets, collate_texts, ranking_loss

TEXTS = ["Oslo is the capital", "is", "the water is beside the city", "Lima lies beside"]


@pytest.fixture
def teacher(tmp_path) -> BertModel:
    return BertModel.from_pretrained(save_bert(tmp_path / "teacher", BertModel)).eval()


def test_ranking_loss_is_the_cross_entropy_of_the_right_partner():
    one, other = [1.0, 0.0], [0.0, 1.0]
    # Two pairs whose partners are right: of each text, one cosine is 1 and the other 0.
    right = ranking_loss(torch.tensor([one, other, one, other]), 2)
    assert right.item() == pytest.approx(0.0, abs=1e-6)
    assert ranking_loss(torch.tensor([one, other, other, one]), 2).item() == pytest.approx(SCALE, rel=1e-3)
    # A third text that is the anchor itself is as near as the partner.
    assert ranking_loss(torch.tensor([one, one, one]), 3).item() == pytest.approx(math.log(2))


def test_texts_of_a_row_stand_in_groups_in_the_batch(tiny_tokenizer):
    encode = make_encode(tiny_tokenizer, ["a", "b"], {})
    rows = Dataset.from_dict({**encode({"a": TEXTS[:2], "b": TEXTS[2:]}), "labels": [[[0.0], [2.0]], [[1.0], [3.0]]]})
    batch = collate_texts(DataCollatorWithPadding(tiny_tokenizer), [rows[0], rows[1]])
    expected = tiny_tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert batch["labels"].flatten().tolist() == [0.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("columns", [["a"], ["a", "b"]])
def test_targets_are_the_teachers_embeddings_and_are_computed_once(columns, teacher, tiny_tokenizer, tmp_path):
    collate = functools.partial(collate_texts, DataCollatorWithPadding(tiny_tokenizer))
    encode, modules = make_encode(tiny_tokenizer, columns, {}), SentenceModules()
    features = Dataset.from_dict(dict(encode({"a": TEXTS[:2], "b": TEXTS[2:]})))
    found = add_targets(features, teacher, modules, collate, str(tmp_path / "cache"))
    texts = TEXTS[:2] if len(columns) == 1 else [TEXTS[0], TEXTS[2], TEXTS[1], TEXTS[3]]
    expected = []
    for text in texts:
        batch = tiny_tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            pooled = teacher(**batch).last_hidden_state[0].mean(dim=0)
        expected.append((pooled / pooled.norm()).numpy())
    np.testing.assert_allclose(np.reshape(found["labels"], (len(texts), -1)), expected, atol=1e-6)

    (cache,) = (tmp_path / "cache").glob("embeddings-*.npy")
    np.save(cache, np.zeros_like(np.load(cache)))
    assert not np.any(add_targets(features, teacher, modules, collate, str(tmp_path / "cache"))["labels"])
    with torch.no_grad():
        teacher.embeddings.word_embeddings.weight.add_(1.0)
    assert np.any(add_targets(features, teacher, modules, collate, str(tmp_path / "cache"))["labels"])
