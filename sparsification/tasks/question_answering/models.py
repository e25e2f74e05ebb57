"""Models that can answer questions, told from the others before training.

``AutoModelForQuestionAnswering`` loads more than this task can use: models that want pictures or boxes beside the text,
tokenizers that cannot pad, models whose attention has one length only. One forward pass of a padded pair, as long as
the features will be, shows it.
"""

import inspect

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sparsification.model_io import input_names
from sparsification.model_outputs import INTERMEDIATE_OUTPUTS
from sparsification.tasks.errors import UsageError

LOGITS = ("start_logits", "end_logits")
# What models raise on inputs that they cannot take: they agree on no class.
REFUSALS = (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def check_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str, length: int) -> None:
    """Refuse a model that cannot be trained or asked, by trying it on one padded pair of texts.

    Weights, modes and random numbers stay as they are.

    Args:
        model: on the CPU, as it was loaded.
        tokenizer: a fast one.
        name: what messages call the model.
        length: tokens of the features.

    Raises:
        UsageError: the tokenizer cannot pad, or the model does not give start and end logits of each token from what
            the tokenizer makes.
    """
    kind = type(model).__name__
    if tokenizer.pad_token_id is None:
        raise UsageError(
            f"the tokenizer of {name} has no padding token, so questions of different lengths make no batch; save it "
            "with one (tokenizer.pad_token = tokenizer.eos_token; tokenizer.save_pretrained(...))"
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
        raise UsageError(f"{name}: {kind} needs {', '.join(missing)} beside the text, which questions do not come with")
    batch = tokenizer("a", "b", padding="max_length", max_length=length, return_tensors="pt")
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            outputs = model(**{column: batch[column] for column in names})
    except REFUSALS as error:
        raise UsageError(
            f"{name}: {kind} cannot be run on {', '.join(names)} of {length} tokens alone, which is what questions and "
            f"contexts make ({type(error).__name__}: {error})"
        ) from error
    finally:
        model.train(was_training)
    given = [output for output in outputs if output not in INTERMEDIATE_OUTPUTS]
    if given != list(LOGITS) or any(outputs[output].shape != (1, length) for output in LOGITS):
        raise UsageError(
            f"{name}: {kind} gives {', '.join(given)}; a model for this task gives {' and '.join(LOGITS)} alone, one "
            "of each for each token"
        )
