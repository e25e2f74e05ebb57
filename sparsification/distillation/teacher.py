"""Who can teach this student?"""

import copy
import logging
import pickle

from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sparsification.errors import ManagerError
from sparsification.model_io import knows_no_words, takes_token_types
from sparsification.quantization.checkpoint import load_quantization
from sparsification.saved_weights import check_saved_shapes, has_weights

logger = logging.getLogger(__name__)

# What a feature's numbers mean beside its words.
_CONVENTIONS = ("pad_token_id", "cls_token_id", "sep_token_id", "unk_token_id", "pad_token_type_id", "padding_side")
# Tokenizers differ in case, accents, punctuation, digits, ideographs and blanks.
_SAMPLE = ("Où est l'ÉCOLE No. 42?", "The school's name: “Café 1½”, 東京;\u00a0U.S.A. naïve-ly")


def load_teacher(
    name: str | None,
    auto_class: type,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: str | None,
    **from_pretrained_kwargs,
) -> PreTrainedModel | None:
    """Find the teacher that ``--distill_teacher`` names, and make sure that it can teach this student.

    Args:
        name: path, hub name, ``self`` (a copy of the student as it is now), ``disable``, or None.
        auto_class: what loads it, e.g. ``AutoModelForQuestionAnswering``.
        student: the model to train.
        tokenizer: the student's.
        recipe: source of the recipe that distills; None where no recipe does.
        **from_pretrained_kwargs: cache_dir, token and the like.

    Returns:
        The teacher, or None where there is none to use.

    Raises:
        ManagerError: the recipe wants a teacher and none is given, it cannot be loaded, it has another head or
            vocabulary, or its tokenizer reads texts otherwise.
    """
    if name is None and recipe is not None:
        raise ManagerError(
            f"{recipe} distills: name its teacher with --distill_teacher "
            "(a path, a hub name or 'self'), or say --distill_teacher disable"
        )
    if name is not None and name != "disable" and recipe is None:
        logger.warning(f"--distill_teacher {name} is not used: no recipe that distills was given.")
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
            f"it has no {', '.join(sorted(info['missing_keys']))}"
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
            "save the teacher's own tokenizer beside it"
        )
    return teacher


def saved_tokenizer(name: str, **from_pretrained_kwargs) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of a model, None where it was saved without."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **from_pretrained_kwargs)
    except (OSError, ValueError, ImportError):
        return None
    return None if knows_no_words(tokenizer) else tokenizer


def teacher_tokenizer(
    name: str | None, tokenizer: PreTrainedTokenizerBase, **from_pretrained_kwargs
) -> PreTrainedTokenizerBase:
    """Give the tokenizer whose columns the teacher takes: its own, the student's where it has none.

    Args:
        name: what ``--distill_teacher`` names.
        tokenizer: the student's.
        **from_pretrained_kwargs: cache_dir, token and the like.
    """
    if name is None or name in ("self", "disable"):
        return tokenizer
    return saved_tokenizer(name, **from_pretrained_kwargs) or tokenizer


def _check_tokenizers(name: str, own: PreTrainedTokenizerBase, student: PreTrainedTokenizerBase) -> None:
    """Raise ManagerError where the teacher would read the student's tokens as others than those of its own tokenizer.

    The features are the student's, and serve both.
    """
    if own.get_vocab() != student.get_vocab():
        raise ManagerError(f"the teacher {name} has another vocabulary: its tokens have other numbers")
    for attribute in _CONVENTIONS:
        ours, theirs = getattr(student, attribute), getattr(own, attribute)
        if ours != theirs:
            raise ManagerError(f"the teacher {name} has {attribute} {theirs}, the student {ours}: save both alike")
    ours, theirs = student(*_SAMPLE), own(*_SAMPLE)
    for column in ("input_ids", "token_type_ids"):
        if column in ours and column in theirs and ours[column] != theirs[column]:
            pair = [" ".join(map(str, part[column])) for part in (theirs, ours)]
            raise ManagerError(
                f"the tokenizer of the teacher {name} makes other {column} of one text than the student's, "
                f"{pair[0]} in place of {pair[1]}: they differ in more than their vocabulary, in lower case perhaps"
            )
