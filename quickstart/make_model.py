"""Untrained model and tokenizer of the quickstart: a BERT of two layers with a vocabulary of its own.

The vocabulary is learned from the training texts. A word piece has to occur at least 40 times, so names are split into
pieces that many names share, and a name that does not occur in training consists of known pieces.

The model is initialized to learn within minutes. Its weights have ten times the standard deviation of BERT's, since
nearly uniform attention is slow to train. Its position embeddings are sinusoidal (Vaswani et al. 2017,
arXiv:1706.03762), so that a relative position is the same rotation everywhere.

    python quickstart/make_model.py --train_file quickstart/train.json --output_dir quickstart/out/untrained
"""

import argparse
import json
import math
import string
from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer
from torch import Tensor
from transformers import BertConfig, BertForQuestionAnswering, BertTokenizerFast, set_seed

SEED = 2026
MAX_LENGTH = 128  # tokens; the longest question with its paragraph has fewer than 100
LONGEST_WAVE = 1000.0  # of the position embeddings, in tokens / 2 pi
INITIAL_SCALE = 0.1  # standard deviation of the weights, and amplitude of the position embeddings


def make_tokenizer(train_file: Path) -> BertTokenizerFast:
    """Learn a WordPiece vocabulary from the paragraphs and questions of a SQuAD file."""
    paragraphs = [p for article in json.loads(train_file.read_text("utf-8"))["data"] for p in article["paragraphs"]]
    texts = [p["context"] for p in paragraphs] + [qa["question"] for p in paragraphs for qa in p["qas"]]
    learner = BertWordPieceTokenizer(lowercase=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # Given in a fixed order: otherwise their order, and with it a few pieces, would differ between runs.
    endings = [f"##{character}" for character in string.ascii_lowercase + string.digits]
    learner.train_from_iterator(
        sorted(texts), vocab_size=1500, min_frequency=40, special_tokens=special + endings, show_progress=False
    )
    return BertTokenizerFast(vocab=learner.get_vocab(), model_max_length=MAX_LENGTH)


def make_model(vocab_size: int) -> BertForQuestionAnswering:
    """Initialize the model from a fixed seed."""
    set_seed(SEED)
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=INITIAL_SCALE,
        hidden_dropout_prob=0.0,  # a question is seen 2 or 3 times, too rarely to overfit
        attention_probs_dropout_prob=0.0,
    )
    model = BertForQuestionAnswering(config)
    model.bert.embeddings.position_embeddings.weight.data = INITIAL_SCALE * sinusoids(MAX_LENGTH, config.hidden_size)
    return model


def sinusoids(length: int, width: int) -> Tensor:
    """Sine and cosine of each position at ``width / 2`` wavelengths, shape (length, width)."""
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(LONGEST_WAVE) / width))
    angles = torch.arange(length)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(start_dim=1)


def main() -> None:
    """Write the model and its tokenizer into a folder for ``--model_name_or_path``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train_file", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = make_tokenizer(args.train_file)
    tokenizer.save_pretrained(args.output_dir)
    make_model(len(tokenizer)).save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
