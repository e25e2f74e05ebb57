"""Tiny untrained models of many families, each with a tokenizer of its own family.

Nothing is downloaded: vocabularies are built from the texts in conftest.py, weights are random, from a fixed seed. No
model drops out anything, so that one and two processes train alike.
"""

import functools
import json
from pathlib import Path

import torch
import transformers
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerBase

from helpers.data import FILLER, PLACES, squad_json
from helpers.models import build_tiny_tokenizer

LENGTH = 128  # positions
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_BERT = {"max_position_embeddings": LENGTH, **_SMALL, **_NO_DROPOUT}
# The padding token's position counts, too.
_ROBERTA = _BERT | {"max_position_embeddings": LENGTH + 2, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
_DEBERTA_V3 = _BERT | {
    "relative_attention": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
}
# Name: the prefix of the classes, the kind of tokenizer, and the configuration.
FAMILIES: dict[str, tuple[str, str, dict[str, object]]] = {
    "BERT": ("Bert", "bert", _BERT),
    "RoBERTa": ("Roberta", "roberta", _ROBERTA | {"type_vocab_size": 1}),
    "XLM-R": ("XLMRoberta", "xlm-r", _ROBERTA | {"type_vocab_size": 1}),
    "DistilBERT": (
        "DistilBert",
        "distilbert",
        {"max_position_embeddings": LENGTH, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
        | {"dropout": 0.0, "attention_dropout": 0.0, "qa_dropout": 0.0},
    ),
    "ELECTRA": ("Electra", "bert", _BERT | {"embedding_size": 16}),
    "ALBERT": (
        "Albert",
        "albert",
        _BERT | {"embedding_size": 16, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
    ),
    "MPNet": ("MPNet", "mpnet", _ROBERTA | {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}),
    "CamemBERT": ("Camembert", "camembert", _ROBERTA | {"type_vocab_size": 1}),
    "ConvBERT": ("ConvBert", "bert", _BERT | {"embedding_size": 16, "head_ratio": 2, "conv_kernel_size": 9}),
    "MobileBERT": (
        "MobileBert",
        "bert",
        _BERT
        | {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16, "num_feedforward_networks": 2},
    ),
    "DeBERTa v1": (
        "Deberta",
        "deberta",
        _BERT
        | {"relative_attention": True, "max_relative_positions": -1, "pos_att_type": ["c2p", "p2c"]}
        | {"position_biased_input": False, "type_vocab_size": 0, "layer_norm_eps": 1e-7},
    ),
    "DeBERTa v2": ("DebertaV2", "deberta-v2", _DEBERTA_V3 | {"conv_kernel_size": 3, "conv_act": "gelu"}),
    "DeBERTa v3": ("DebertaV2", "deberta-v2", _DEBERTA_V3),
    "ModernBERT": (
        "ModernBert",
        "modernbert",
        _SMALL
        | {"max_position_embeddings": LENGTH, "local_attention": 16, "pad_token_id": 0, "bos_token_id": 2}
        | {"eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3, "reference_compile": False},
    ),
    "XLNet": ("XLNet", "xlnet", {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "dropout": 0.0}),
    "Longformer": (
        "Longformer",
        "roberta",
        _ROBERTA | {"type_vocab_size": 1, "attention_window": 16, "sep_token_id": 2},
    ),
    "BART": (
        "Bart",
        "roberta",
        {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
        | {"decoder_attention_heads": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "dropout": 0.0}
        | {"max_position_embeddings": LENGTH, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    ),
}
_ROBERTA_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
_DEBERTA_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@functools.cache
def _texts() -> list[str]:
    articles = squad_json(PLACES, impossible=True)["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    questions = [record["question"] for paragraph in paragraphs for record in paragraph["qas"]]
    return [FILLER, *(paragraph["context"] for paragraph in paragraphs), *questions]


@functools.cache
def _byte_pairs(special: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    learner = ByteLevelBPETokenizer()
    learner.train_from_iterator(_texts(), vocab_size=500, show_progress=False, special_tokens=list(special))
    model = json.loads(learner._tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _unigrams(special: list[str]) -> list[tuple[str, float]]:
    """Special tokens, whole words with the space before them, and characters."""
    texts = [*_texts(), *(text.lower() for text in _texts())]
    words = sorted({word.strip(".,?") for text in texts for word in text.split()})
    characters = sorted({character for text in texts for character in text} - {" "})
    pieces = [(f"▁{word}", -5.0) for word in words] + [(character, -10.0) for character in ["▁", *characters]]
    return [(token, 0.0) for token in special] + pieces


def tokenizer_of(kind: str) -> PreTrainedTokenizerBase:
    """Give a family's fast tokenizer."""
    length = {"model_max_length": LENGTH}
    if kind == "bert":
        return build_tiny_tokenizer()
    if kind == "distilbert":
        return transformers.DistilBertTokenizerFast(vocab=build_tiny_tokenizer().get_vocab(), **length)
    if kind == "mpnet":
        names = {"[PAD]": "<pad>", "[CLS]": "<s>", "[SEP]": "</s>", "[MASK]": "<mask>"}
        vocab = {names.get(token, token): index for token, index in build_tiny_tokenizer().get_vocab().items()}
        return transformers.MPNetTokenizerFast(vocab=vocab, **length)
    if kind == "roberta":
        vocab, merges = _byte_pairs(tuple(_ROBERTA_SPECIAL))
        return transformers.RobertaTokenizerFast(vocab=vocab, merges=merges, **length)
    if kind == "deberta":
        vocab, merges = _byte_pairs(tuple(_DEBERTA_SPECIAL))
        return transformers.DebertaTokenizerFast(vocab=vocab, merges=merges, **length)
    if kind == "modernbert":
        inner = build_tiny_tokenizer().backend_tokenizer
        special = dict(zip(("pad", "unk", "cls", "sep", "mask"), _DEBERTA_SPECIAL, strict=True))
        return transformers.PreTrainedTokenizerFast(
            tokenizer_object=inner,
            model_input_names=["input_ids", "attention_mask"],
            **{f"{name}_token": token for name, token in special.items()},
            **length,
        )
    classes = {
        "xlm-r": (transformers.XLMRobertaTokenizerFast, _ROBERTA_SPECIAL),
        "camembert": (transformers.CamembertTokenizerFast, _ROBERTA_SPECIAL),
        "albert": (transformers.AlbertTokenizerFast, ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]),
        "deberta-v2": (transformers.DebertaV2TokenizerFast, _DEBERTA_SPECIAL),
        "xlnet": (
            transformers.XLNetTokenizerFast,
            ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"],
        ),
    }
    tokenizer, special = classes[kind]
    return tokenizer(vocab=_unigrams(special), **length)


def save_tiny_encoder(
    family: str, folder: Path, head: str = "ForQuestionAnswering", scale: float = 1.0, **settings
) -> None:
    """Save a random model of a family, of two layers, and its tokenizer.

    Args:
        family: of ``FAMILIES``.
        folder: gets both.
        head: end of the name of its class; "Model" for none.
        scale: of its matrices. As Transformers makes them, layers so narrow hardly change what passes through them.
        **settings: of its configuration, besides those of the family.
    """
    prefix, kind, config = FAMILIES[family]
    tokenizer = tokenizer_of(kind)
    torch.manual_seed(0)
    made = getattr(transformers, f"{prefix}Config")(vocab_size=len(tokenizer), **config, **settings)
    if family == "XLNet" and head == "ForQuestionAnswering":
        head = "ForQuestionAnsweringSimple"
    model = getattr(transformers, f"{prefix}{head}")(made)
    for weight in model.parameters():
        weight.data *= scale if weight.ndim > 1 else 1
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
