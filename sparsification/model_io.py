"""What a model takes and gives, and how long its inputs may be.

Asked of the model itself: configurations count positions in different ways. RoBERTa's 514 are 512, since its numbering
begins after the padding index; BART keeps two rows more than its configuration says; DeBERTa has relative positions and
no bound.
"""

import inspect
from collections.abc import Iterator, Sequence

import torch
import transformers
from transformers import AutoModelForQuestionAnswering, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Modules that hold one row for each absolute position.
_POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")


def position_limit(model: PreTrainedModel) -> int | None:
    """Give the number of tokens that a model has positions for, None where it has no bound.

    A model with rotary positions runs at any length; the bound is the length that its configuration names.
    """
    named = vars(model.config).get("max_position_embeddings")
    named = [named] if isinstance(named, int) and named > 0 else []
    tables = list(_table_lengths(model))
    rotates = vars(model.config).get("rope_parameters") is not None
    return min([*tables, *named]) if tables or (rotates and named) else None


def _table_lengths(model: PreTrainedModel) -> Iterator[int]:
    """The positions of each table that has a row for each."""
    for name, module in model.named_modules():
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if name.rpartition(".")[2] in _POSITION_TABLES and weight is not None:
            padding_index = vars(module).get("padding_idx")
            unused = 0 if padding_index is None else padding_index + 1  # numbered from the row after it
            yield len(weight) - unused - vars(module).get("offset", 0)


def position_limit_of(config: PreTrainedConfig) -> int | None:
    """Give :func:`position_limit` of the question-answering model of a configuration, without its weights.

    Raises:
        ValueError: no such model.
    """
    with torch.device("meta"):
        return position_limit(AutoModelForQuestionAnswering.from_config(config))


def named_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """Give the class that a configuration's ``architectures`` names first, None where it is none of its models."""
    (name, *_) = config.architectures or [""]
    kind = getattr(transformers, str(name), None)
    if not isinstance(kind, type) or not issubclass(kind, PreTrainedModel) or kind.config_class is not type(config):
        return None
    return kind


def forward_names(model: PreTrainedModel) -> list[str]:
    """Give the names of a model's inputs, without ``token_type_ids`` where it knows one type of tokens only."""
    # Its embedding has no row for the second text, and zeros are what it takes by itself.
    single = vars(model.config).get("type_vocab_size") == 1
    names = inspect.signature(model.forward).parameters
    return [name for name in names if not (single and name == "token_type_ids")]


def input_names(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, labels: Sequence[str] = ()
) -> list[str]:
    """Give the columns of a batch that a model computes its outputs from.

    Args:
        model: its ``forward`` says what it takes.
        tokenizer: the columns are those of it that the model takes, in its order; None: all that the model takes.
        labels: names that are left out, since they are for the loss.
    """
    taken = [name for name in forward_names(model) if name not in labels]
    return taken if tokenizer is None else [name for name in tokenizer.model_input_names if name in taken]


def takes_token_types(model: PreTrainedModel) -> bool:
    """Tell whether a model has learnt which tokens are of the first text and which of the second."""
    return vars(model.config).get("type_vocab_size", 0) > 1 and "token_type_ids" in forward_names(model)


def knows_no_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a tokenizer has special tokens alone: what Transformers makes up where none was saved."""
    return len(tokenizer) - len(set(tokenizer.all_special_ids)) < 2  # some have a blank beside


def tokenizer_limit(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Give the longest input that a tokenizer names, None where it names none."""
    return tokenizer.model_max_length if tokenizer.model_max_length <= 1_000_000 else None
