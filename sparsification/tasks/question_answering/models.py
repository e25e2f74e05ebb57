"""Check before training that a model can answer questions.

``AutoModelForQuestionAnswering`` also loads models that need images or boxes in addition to text, or whose attention
has a fixed length, and some tokenizers cannot pad. One forward pass of a padded pair of texts, as long as the features
will be, shows whether a model is usable.
"""

import inspect

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsification.model_io import input_names
from sparsification.model_outputs import INTERMEDIATE_OUTPUTS
from sparsification.tasks.errors import UsageError

LOGITS = ("start_logits", "end_logits")
# Errors that models raise on inputs that they cannot take; there is no common class.
REFUSALS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def check_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, length: int) -> None:
    """Refuse a model that cannot be used for this task, by running it on one padded pair of texts.

    Weights, mode and random numbers are not changed.

    Args:
        model: the model as it was loaded, on the CPU.
        tokenizer: a fast tokenizer.
        name: name of the model in messages.
        length: number of tokens of the features.

    Raises:
        UsageError: the tokenizer cannot pad, or the model does not return start and end logits of each token for the
            tokenizer's columns.
    """
    kind = type(model).__name__
    if tokenizer.pad_token_id is None:
        raise UsageError(
            f"the tokenizer of {name} has no padding token, so questions of different lengths cannot be batched; save "
            "it with one (tokenizer.pad_token = tokenizer.eos_token; tokenizer.save_pretrained(...))"
        )
    names = input_names(model, tokenizer)
    missing = [
        parameter.name
        for parameter in inspect.signature(model.forward).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and parameter.name not in names
    ]
    if missing:
        raise UsageError(f"{name}: {kind} needs {', '.join(missing)} in addition to text, which questions do not have")
    batch = tokenizer("a", "b", padding="max_length", max_length=length, return_tensors="pt")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = model(**{column: batch[column] for column in names})
    except REFUSALS as error:
        raise UsageError(
            f"{name}: {kind} cannot be run on {', '.join(names)} of {length} tokens, which are the columns of "
            f"questions and contexts ({type(error).__name__}: {error})"
        ) from error
    finally:
        model.train(was_training)
    given = [output for output in outputs if output not in INTERMEDIATE_OUTPUTS]
    if given != list(LOGITS) or any(outputs[output].shape != (1, length) for output in LOGITS):
        raise UsageError(
            f"{name}: {kind} returns {', '.join(given)}; a model for this task returns {' and '.join(LOGITS)} only, "
            "one of each for each token"
        )
