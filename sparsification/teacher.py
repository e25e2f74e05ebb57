"""Who can teach this student?"""

import copy
import logging

from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from sparsification.manager import ManagerError, ScheduledModifierManager
from sparsification.quantized_modules import load_quantization

logger = logging.getLogger(__name__)


def load_teacher(
    name: str | None,
    auto_class: type,
    student: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    manager: ScheduledModifierManager,
    **from_pretrained_kwargs,
) -> PreTrainedModel | None:
    """Find the teacher that ``--distill_teacher`` names, and make sure that it can teach this student.

    Args:
        name: path, hub name, ``self`` (a copy of the student as it is now), ``disable``, or None.
        auto_class: what loads it, e.g. ``AutoModelForQuestionAnswering``.
        student: the model to train.
        tokenizer: the student's, which feeds both.
        manager: tells whether the recipe wants a teacher.
        **from_pretrained_kwargs: cache_dir, token and the like.

    Returns:
        The teacher, or None where there is none to use.

    Raises:
        ManagerError: the recipe wants a teacher and none is given, it cannot be loaded, or it has another head or
            vocabulary.
    """
    if name is None and manager.distills:
        raise ManagerError(
            f"{manager.recipe.source} distills: name its teacher with --distill_teacher "
            "(a path, a hub name or 'self'), or say --distill_teacher disable"
        )
    if name is not None and name != "disable" and not manager.distills:
        logger.warning(f"--distill_teacher {name} is not used: no recipe that distills was given.")
        return None
    if name is None or name == "disable":
        return None
    if name == "self":
        return copy.deepcopy(student)
    try:
        teacher, info = auto_class.from_pretrained(name, output_loading_info=True, **from_pretrained_kwargs)
    except (OSError, ValueError) as error:
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
    try:
        vocabulary = AutoTokenizer.from_pretrained(name, **from_pretrained_kwargs).get_vocab()
    except (OSError, ValueError):  # a teacher saved without its tokenizer
        return teacher
    if vocabulary != tokenizer.get_vocab():
        raise ManagerError(f"the teacher {name} has another vocabulary: its tokens have other numbers")
    return teacher
