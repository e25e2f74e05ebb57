"""What does the quickstart train? A BERT of two layers that knows nothing yet, with a vocabulary of its own.

The vocabulary is learned from the training texts alone. Pieces have to occur often, so the many names are spelled in
pieces that they share, and a name that training never saw is spelled in pieces that it did see.

Two things help so small a model to learn within a minute: weights ten times as large at the start as BERT's, since
attention that starts out even takes long to find its way, and sinusoidal positions (Vaswani et al. 2017,
arXiv:1706.03762) in place of random ones, since "the word before" is then the same turn everywhere.

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
LONGEST_WAVE = 1000.0  # of the positions, in tokens / 2 pi
INITIAL_SCALE = 0.1  # standard deviation of all weights, and amplitude of the positions


def make_tokenizer(train_file: Path) -> BertTokenizerFast:
    """Learn a WordPiece vocabulary from the paragraphs and questions of a SQuAD file."""
    paragraphs = [p for article in json.loads(train_file.read_text("utf-8"))["data"] for p in article["paragraphs"]]
    texts = [p["context"] for p in paragraphs] + [qa["question"] for p in paragraphs for qa in p["qas"]]
    learner = BertWordPieceTokenizer(lowercase=True)
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # Named beforehand, or their order, and with it a few pieces, would be another one in each run.
    endings = [f"##{character}" for character in string.ascii_lowercase + string.digits]
    learner.train_from_iterator(
        sorted(texts), vocab_size=1500, min_frequency=40, special_tokens=special + endings, show_progress=False
    )
    return BertTokenizerFast(vocab=learner.get_vocab(), model_max_length=MAX_LENGTH)


def make_model(vocab_size: int) -> BertForQuestionAnswering:
    """Draw the weights of an untrained model, the same ones each time."""
    set_seed(SEED)
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=INITIAL_SCALE,
        hidden_dropout_prob=0.0,  # each question is seen too few times to be learned by heart
        attention_probs_dropout_prob=0.0,
    )
    model = BertForQuestionAnswering(config)
    model.bert.embeddings.position_embeddings.weight.data = INITIAL_SCALE * sinusoids(MAX_LENGTH, config.hidden_size)
    return model


def sinusoids(length: int, width: int) -> Tensor:
    """Give the sine and cosine of each position at ``width / 2`` wavelengths, (length, width)."""
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(LONGEST_WAVE) / width))
    angles = torch.arange(length)[:, None] * frequencies
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(start_dim=1)


def main() -> None:
    """Write the untrained model and its tokenizer as a folder that ``--model_name_or_path`` takes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--train_file", type=Path, required=True)
    parser.add_argument("--output_dir", type=Path, required=True)
    args = parser.parse_args()
    tokenizer = make_tokenizer(args.train_file)
    tokenizer.save_pretrained(args.output_dir)
    make_model(len(tokenizer)).save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()
