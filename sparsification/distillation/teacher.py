"""Loading of the teacher, and the checks that it fits the student."""

import copy
import logging
import pickle

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.models.auto.auto_factory import _BaseAutoModelClass

from sparsification.errors import ManagerError
from sparsification.model_io import knows_no_words, takes_token_types
from sparsification.quantization.checkpoint import load_quantization
from sparsification.saved_weights import check_saved_shapes, has_weights

logger = logging.getLogger(__name__)

# Settings of both tokenizers that must be equal beside the vocabulary: both models read the same features.
_CONVENTIONS = ("pad_token_id", "cls_token_id", "sep_token_id", "unk_token_id", "pad_token_type_id", "padding_side")
# Differences between tokenizers show in case, accents, punctuation, digits, ideographs and whitespace.
_SAMPLE = ("Où est l'ÉCOLE No. 42?", "The school's name: “Café 1½”, 東京;\u00a0U.S.A. naïve-ly")


def load_teacher(
    name: str | None,
    auto_class: type[_BaseAutoModelClass],
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: str | None,
    **from_pretrained_kwargs,
) -> PreTrainedModel | None:
    """Load the teacher that ``--distill_teacher`` names, and check that it fits the student.

    Args:
        name: path, hub name, ``self`` (a copy of the student as it is now), ``disable``, or None.
        auto_class: the class that loads it, e.g. ``AutoModelForQuestionAnswering``.
        student: the model to train.
        tokenizer: the student's.
        recipe: source of the recipe that distills; None where no recipe does.
        **from_pretrained_kwargs: cache_dir, token and the like.

    Returns:
        The teacher, or None where there is none to use.

    Raises:
        ManagerError: the recipe needs a teacher and none is given, it cannot be loaded, it has another head or
            vocabulary, or its tokenizer makes other token ids of one text.
    """
    if name is None and recipe is not None:
        raise ManagerError(
            f"{recipe} distills: name its teacher with --distill_teacher "
            "(a path, a hub name or 'self'), or set --distill_teacher disable"
        )
    if name is not None and name != "disable" and recipe is None:
        logger.warning(f"--distill_teacher {name} has no effect: no recipe that distills was given.")
        return None
    if name is None or name == "disable":
        return None
    if name == "self":
        return copy.deepcopy(student)
    try:
        if has_weights(name):
            config = AutoConfig.from_pretrained(name, **from_pretrained_kwargs)
            check_saved_shapes(name, config, auto_class.from_config)
        teacher, info = auto_class.from_pretrained(name, output_loading_info=True, **from_pretrained_kwargs)
    except (OSError, ValueError, SafetensorError, pickle.UnpicklingError) as error:
        raise ManagerError(f"--distill_teacher {name}: {error}") from error
    if info["missing_keys"]:
        raise ManagerError(
            f"the teacher {name} has another head than {type(student).__name__}: "
            f"its checkpoint lacks {', '.join(sorted(info['missing_keys']))}"
        )
    if teacher.config.vocab_size != student.config.vocab_size:
        raise ManagerError(
            f"the teacher {name} has another vocabulary: {teacher.config.vocab_size} tokens, "
            f"the student {student.config.vocab_size}"
        )
    load_quantization(teacher, name)
    own = saved_tokenizer(name, **from_pretrained_kwargs)
    if own is not None:
        _check_tokenizers(name, own, tokenizer)
    elif takes_token_types(teacher) and "token_type_ids" not in tokenizer.model_input_names:
        raise ManagerError(
            f"the teacher {name} takes token_type_ids, which the student's {type(tokenizer).__name__} does not make: "
            "save the teacher's own tokenizer in its folder"
        )
    return teacher


def saved_tokenizer(name: str, **from_pretrained_kwargs) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of a model; None where the model was saved without one."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **from_pretrained_kwargs)
    except (OSError, ValueError, ImportError):
        return None
    return None if knows_no_words(tokenizer) else tokenizer


def teacher_tokenizer(
    name: str | None, tokenizer: PreTrainedTokenizerBase, **from_pretrained_kwargs
) -> PreTrainedTokenizerBase:
    """Choose the tokenizer whose columns the teacher takes: its own, or the student's where it has none.

    Args:
        name: value of ``--distill_teacher``.
        tokenizer: the student's.
        **from_pretrained_kwargs: cache_dir, token and the like.
    """
    if name is None or name in ("self", "disable"):
        return tokenizer
    return saved_tokenizer(name, **from_pretrained_kwargs) or tokenizer


def _check_tokenizers(name: str, own: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> None:
    """Raise ManagerError if the teacher's tokenizer differs from the student's, which makes the features of both."""
    if own.get_vocab() != student.get_vocab():
        raise ManagerError(f"the teacher {name} has another vocabulary: its tokens have other ids")
    for attribute in _CONVENTIONS:
        ours, theirs = getattr(student, attribute), getattr(own, attribute)
        if ours != theirs:
            raise ManagerError(
                f"the teacher {name} and its student must have the same {attribute}, got {theirs} and {ours}"
            )
    ours, theirs = student(*_SAMPLE), own(*_SAMPLE)
    for column in ("input_ids", "token_type_ids"):
        if column in ours and column in theirs and ours[column] != theirs[column]:
            pair = [" ".join(map(str, part[column])) for part in (theirs, ours)]
            raise ManagerError(
                f"the tokenizer of the teacher {name} makes other {column} of one text than the student's, "
                f"{pair[0]} instead of {pair[1]}: they differ in more than their vocabulary, e.g. in lowercasing"
            )
