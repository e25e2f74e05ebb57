"""Entities in texts by a saved token classifier."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import DatasetDict
from transformers import AutoModelForTokenClassification

from sparsification.tasks.arguments import load_file
from sparsification.tasks.predictor import Prediction, Predictor, Records
from sparsification.tasks.saved_model import SavedModel, open_model
from sparsification.tasks.token_classification.data import find_column, read_words
from sparsification.tasks.token_classification.metrics import OUTSIDE, entities, entity_scores


class Words(tuple[str, ...]):
    """The words of a sentence, which are tagged one by one; of a text that is no such object, the tokenizer's words."""


class TokenClassifier(Predictor):
    """Predicts {"entities", "words", "tags"}: the entities with type, text, characters and score; and each word's tag.

    Words are the tokenizer's own, or those of a file of words and tags. A word has the tag of its first token. The
    score of an entity is the least probability of its words' tags.
    """

    verdict = "tags of words"
    main_metric = "f1"

    def __init__(self, model: SavedModel, max_length: int | None = None) -> None:
        super().__init__(model, max_length)
        self.names = model.labels

    def read(self, file: Path) -> Records:
        data = load_file(str(file))
        splits = DatasetDict({"test": data})
        tags = next((name for name in ("ner_tags", "tags", "labels") if name in data.column_names), None)
        if tags is None:
            return Records(self.texts_of(data), None)
        words = find_column(splits, None, ("tokens", "words"), "words")
        read, names = read_words(splits, words, tags, self.names)
        rows = read["test"]
        labels = [[names[number] for number in row] for row in rows["tags"]]
        return Records([Words(row) for row in rows["words"]], labels)

    def predict(self, inputs: Sequence[tuple[str, ...]]) -> list[Prediction]:
        return [self._predict(texts) for texts in inputs]

    def text_of(self, texts: tuple[str, ...]) -> str:
        return " ".join(texts)

    def _predict(self, texts: tuple[str, ...]) -> Prediction:
        """Predict for one text, or for ``Words``."""
        text = self.text_of(texts)
        encoded = self.model.tokenizer(
            text,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_offsets_mapping=True,
            return_tensors="np",
        )
        # Some tokens contain the blank before their word, RoBERTa's and DeBERTa's even the blank alone.
        places = [
            (end - len(text[start:end].lstrip()), end) for start, end in encoded.pop("offset_mapping")[0].tolist()
        ]
        (logits,) = self.model.run(encoded)
        powers = np.exp(logits[0] - logits[0].max(axis=-1, keepdims=True))
        shares = powers / powers.sum(axis=-1, keepdims=True)
        owners = encoded.word_ids(0)
        spans: dict[int, tuple[int, int]] = {}  # the characters of each word
        if isinstance(texts, Words):
            ends = np.cumsum([len(word) + 1 for word in texts])
            owners = [
                None if owner is None else int((ends <= start).sum())
                for owner, (start, _) in zip(owners, places, strict=True)
            ]
            spans = {
                word: (int(end) - len(part) - 1, int(end) - 1)
                for word, (end, part) in enumerate(zip(ends, texts, strict=True))
            }
        rows: dict[int, np.ndarray] = {}  # the probabilities of each word's tags, by its first token
        for owner, (start, end), row in zip(owners, places, shares, strict=True):
            if owner is None:
                continue
            rows.setdefault(owner, row)
            spans.setdefault(owner, (start, end))
            spans[owner] = (spans[owner][0], max(end, spans[owner][1]))
        order = sorted(word for word, (start, end) in spans.items() if start < end)
        # A word that is cut off, or has no token, has no tag.
        tags = [self.names[int(rows[word].argmax())] if word in rows else OUTSIDE for word in order]
        found = []
        for entity in entities(tags):
            inside = order[entity.first : entity.last + 1]
            start, end = spans[inside[0]][0], spans[inside[-1]][1]
            score = min(float(rows[word].max()) for word in inside)
            found.append({"entity": entity.kind, "text": text[start:end], "start": start, "end": end, "score": score})
        return {"entities": found, "words": [text[slice(*spans[word])] for word in order], "tags": tags}

    def scores(self, records: Records, found: Sequence[Prediction]) -> dict[str, float]:
        return entity_scores([one["tags"] for one in found], records.labels or [])

    def agreement(self, found: Sequence[Prediction], other: Sequence[Prediction]) -> np.ndarray:
        return np.array(
            [1 - _changed(one, two) / max(len(one["tags"]), 1) for one, two in zip(found, other, strict=True)]
        )

    def difference(self, found: Prediction, other: Prediction) -> float:
        return float(_changed(found, other))

    def show(self, found: Prediction) -> str:
        return ", ".join(f"{one['entity']}: {one['text']}" for one in found["entities"]) or "no entity"


def _changed(found: Prediction, other: Prediction) -> int:
    """Number of words with another tag."""
    return sum(one != two for one, two in zip(found["tags"], other["tags"], strict=True))


def load(path: str | Path, max_length: int | None = None, threads: int | None = None) -> TokenClassifier:
    """Load a saved token classifier; arguments as for ``tasks.predict.load_predictor``."""
    saved = open_model(path, AutoModelForTokenClassification, ["logits"], "tags words", threads)
    return TokenClassifier(saved, max_length)
