"""Tiny untrained models with seeded random weights, and the tokenizer that fits the data."""

import json
from pathlib import Path

import torch
from transformers import BertConfig, BertForQuestionAnswering, BertTokenizerFast

from helpers.data import FILLER, PLACES, squad_json


def build_tiny_tokenizer(padding_side: str = "right"):
    """Build a lower-casing WordPiece tokenizer whose vocabulary is the words of the texts above."""

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


def save_model(path: Path, layers: int, seed: int = 0, **config) -> None:
    """Save a thin BERT with ``layers`` layers and its tokenizer."""
    tokenizer = build_tiny_tokenizer()
    tokenizer.model_max_length = 512
    torch.manual_seed(seed)
    settings = {"vocab_size": len(tokenizer), "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    BertForQuestionAnswering(BertConfig(num_hidden_layers=layers, **settings | config)).save_pretrained(path)
    tokenizer.save_pretrained(path)


def save_bert(folder: Path, kind: type, **settings) -> Path:
    """Save a random BERT of any head and two layers, and its tokenizer.

    Args:
        folder: gets both.
        kind: class of the model, e.g. ``BertForTokenClassification``.
        **settings: of its configuration, which override those below.
    """
    tokenizer = build_tiny_tokenizer()
    size = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    positions = {"vocab_size": len(tokenizer), "max_position_embeddings": 128}
    torch.manual_seed(0)
    kind(BertConfig(**size | positions | settings)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SIZE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
BART = {
    **{"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "vocab_size": 20},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "max_position_embeddings": 32},
}
