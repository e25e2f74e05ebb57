"""Inputs of models: their names and maximum length.

The length is read from the model, because configurations count positions in different ways. RoBERTa's 514 positions are
512, since they are numbered from the padding index + 1; BART has two more rows than its configuration; DeBERTa has
relative positions and no maximum.
"""

import inspect
from collections.abc import Iterator, Sequence

import torch
import transformers
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Names of modules with one row for each absolute position.
_POSITION_TABLES = ("position_embeddings", "embed_positions", "wpe")


def position_limit(model: PreTrainedModel) -> int | None:
    """Return the maximum number of tokens of a model, None if there is none.

    A model with rotary positions runs at any length; its maximum is the length in its configuration.
    """
    named = vars(model.config).get("max_position_embeddings")
    named = [named] if isinstance(named, int) and named > 0 else []
    tables = list(_table_lengths(model))
    rotates = vars(model.config).get("rope_parameters") is not None
    return min([*tables, *named]) if tables or (rotates and named) else None


def _table_lengths(model: PreTrainedModel) -> Iterator[int]:
    """Yield the number of positions of each table of positions."""
    for name, module in model.named_modules():
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if name.rpartition(".")[2] in _POSITION_TABLES and weight is not None:
            padding_index = vars(module).get("padding_idx")
            unused = 0 if padding_index is None else padding_index + 1  # positions are numbered from the row after it
            yield len(weight) - unused - vars(module).get("offset", 0)


def position_limit_of(config: PreTrainedConfig) -> int | None:
    """Return :func:`position_limit` of the model of a configuration, without its weights.

    Raises:
        ValueError: Transformers has no model of this configuration.
    """
    with torch.device("meta"):
        # Without a head: DistilBERT's for questions takes no configuration with other than two labels.
        return position_limit(AutoModel.from_config(config))


def named_class(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """Return the class that a configuration's ``architectures`` names first, None if it has another configuration."""
    (name, *_) = config.architectures or [""]
    kind = getattr(transformers, str(name), None)
    if not isinstance(kind, type) or not issubclass(kind, PreTrainedModel) or kind.config_class is not type(config):
        return None
    return kind


def forward_names(model: PreTrainedModel) -> list[str]:
    """Return the names of a model's inputs, without ``token_type_ids`` if it has only one type of tokens."""
    # Its embedding has no row for the second text, and zeros are its default.
    single = vars(model.config).get("type_vocab_size") == 1
    names = inspect.signature(model.forward).parameters
    return [name for name in names if not (single and name == "token_type_ids")]


def input_names(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, labels: Sequence[str] = ()
) -> list[str]:
    """Return the columns of a batch that a model computes its outputs from.

    Args:
        model: the parameters of its ``forward`` are its inputs.
        tokenizer: only columns that it makes are returned, in its order; None: all inputs of the model.
        labels: names to leave out, because they are for the loss.
    """
    taken = [name for name in forward_names(model) if name not in labels]
    return taken if tokenizer is None else [name for name in tokenizer.model_input_names if name in taken]


def takes_token_types(model: PreTrainedModel) -> bool:
    """Tell whether a model distinguishes the tokens of a first and a second text."""
    return vars(model.config).get("type_vocab_size", 0) > 1 and "token_type_ids" in forward_names(model)


def knows_no_words(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether a tokenizer has only special tokens: Transformers makes such a one if none was saved."""
    return len(tokenizer) - len(set(tokenizer.all_special_ids)) < 2  # some have a space in addition


def tokenizer_limit(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the maximum length of a tokenizer, None if it is not set."""
    return tokenizer.model_max_length if tokenizer.model_max_length <= 1_000_000 else None
