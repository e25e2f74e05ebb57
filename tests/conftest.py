"""Which model and data do the tests share? A BERT of two small layers and a SQuAD of a few made-up paragraphs.

Nothing is downloaded: the vocabulary is built from the texts below and the weights are random, from a fixed seed.
"""

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything of Hugging Face is imported: tests never ask the network, and never share a cache with the user.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "parity")]  # the latter for golden_run.py

PLACES = [
    ("Oslo", "Norway", "fjord", 700000),
    ("Lima", "Peru", "desert coast", 9700000),
    ("Accra", "Ghana", "Gulf of Guinea", 2600000),
    ("Hanoi", "Vietnam", "Red River", 8000000),
    ("Quito", "Ecuador", "volcano Pichincha", 2700000),
    ("Tunis", "Tunisia", "Lake of Tunis", 600000),
    ("Riga", "Latvia", "Baltic Sea", 610000),
    ("Bern", "Switzerland", "river Aare", 134000),
]
SENTENCES = "{city} is the capital of {country}. It lies beside the {water}, and {people} people live there."
FILLER = " Visitors like the old town, the harbour and the market, which opens early on every day of the week."


def squad_article(place: tuple[str, str, str, int], *, impossible: bool = False, long_context: bool = False) -> dict:
    """Make one SQuAD article about one place, with three questions, and a fourth that has no answer."""
    city, country, water, people = place
    context = SENTENCES.format(city=city, country=country, water=water, people=people)
    if long_context:
        context = FILLER.strip() + FILLER * 2 + " " + context + FILLER * 2
    asked = [
        ("capital", f"What is the capital of {country}?", city),
        ("water", f"What does {city} lie beside?", water),
        ("people", f"How many people live in {city}?", str(people)),
    ]
    qas = [
        {
            "id": f"{city.lower()}-{name}",
            "question": question,
            "answers": [{"text": answer, "answer_start": context.index(answer)}],
        }
        for name, question, answer in asked
    ]
    if impossible:
        for record in qas:
            record["is_impossible"] = False
        qas.append(
            {"id": f"{city.lower()}-mayor", "question": "Who is the mayor?", "answers": [], "is_impossible": True}
        )
    return {"title": city, "paragraphs": [{"context": context, "qas": qas}]}


def squad_json(places: list[tuple[str, str, str, int]], **kwargs: bool) -> dict:
    """Make SQuAD's nested JSON about the places."""
    return {"version": "test", "data": [squad_article(place, **kwargs) for place in places]}


@pytest.fixture(autouse=True, scope="module")
def _own_settings() -> Iterator[None]:
    """Take back after each file what the script sets for its whole process, so that the files' order is free."""
    import datasets
    from transformers.utils import logging as transformers_logging

    libraries = (transformers_logging, datasets.utils.logging)
    scripts = [logging.getLogger("sparsification")]
    before = [library.get_verbosity() for library in libraries], [script.level for script in scripts]
    bars = transformers_logging.is_progress_bar_enabled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", "runs")  # so that it is put back
        patch.delenv("TENSORBOARD_LOGGING_DIR")
        yield
    for library, level in zip(libraries, before[0], strict=True):
        library.set_verbosity(level)
    for script, level in zip(scripts, before[1], strict=True):
        script.setLevel(level)
    if bars:
        transformers_logging.enable_progress_bar()


@pytest.fixture(autouse=True, scope="session")
def _private_datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Point the datasets library at a cache of this test run."""
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets_cache")


@pytest.fixture(scope="session")
def tiny_squad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a folder with train.json and validation.json: nested SQuAD v1.1, 18 and 6 questions."""
    folder = tmp_path_factory.mktemp("tiny_squad")
    (folder / "train.json").write_text(json.dumps(squad_json(PLACES[:6])), encoding="utf-8")
    (folder / "validation.json").write_text(json.dumps(squad_json(PLACES[6:])), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_squad_v2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the same folder with one more question a paragraph, which has no answer: 24 and 8 questions."""
    folder = tmp_path_factory.mktemp("tiny_squad_v2")
    (folder / "train.json").write_text(json.dumps(squad_json(PLACES[:6], impossible=True)), encoding="utf-8")
    (folder / "validation.json").write_text(json.dumps(squad_json(PLACES[6:], impossible=True)), encoding="utf-8")
    return folder


def build_tiny_tokenizer(padding_side: str = "right"):
    """Build a lower-casing WordPiece tokenizer whose vocabulary is the words of the texts above."""
    from transformers import BertTokenizerFast

    texts = [json.dumps(squad_json(PLACES, impossible=True)) + FILLER]
    words = sorted({"".join(c if c.isalnum() else " " for c in text).lower() for text in texts})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,?!'\"-:()"]
    for word in sorted(set(" ".join(words).split())):
        if word not in vocabulary:
            vocabulary.append(word)
    for character in "abcdefghijklmnopqrstuvwxyz0123456789":
        vocabulary += [piece for piece in (character, f"##{character}") if piece not in vocabulary]
    return BertTokenizerFast(
        vocab={token: index for index, token in enumerate(vocabulary)},
        do_lower_case=True,
        model_max_length=128,
        padding_side=padding_side,
    )


def save_tiny_bert(folder: Path, hidden_size: int, positions: int) -> None:
    """Save a random BERT for question answering, of two layers, and its tokenizer."""
    import torch
    from transformers import BertConfig, BertForQuestionAnswering

    tokenizer = build_tiny_tokenizer()
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden_size,
        max_position_embeddings=positions,
    )
    torch.manual_seed(0)
    BertForQuestionAnswering(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Give the tokenizer of tiny_model_dir."""
    return build_tiny_tokenizer()


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a random BERT for question answering (2 layers, hidden size 32, 128 positions) and its tokenizer."""
    folder = tmp_path_factory.mktemp("tiny_bert")
    save_tiny_bert(folder, hidden_size=32, positions=128)
    return folder
