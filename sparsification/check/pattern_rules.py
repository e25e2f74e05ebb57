"""Which parameters does a recipe name that it probably does not mean, or means twice?

What needs the parameters themselves is asked only where there is a model, which the manager has initialized.
"""

import itertools
import re
from collections.abc import Iterator

import torch
from torch import nn

from sparsification.check.rules import LintContext, LintWarning
from sparsification.check.timeline import window_text
from sparsification.targets import ALL, ALL_PRUNABLE, ENCODER, match_names

_WHOLE = f"{ENCODER} leaves both out, as SparseML's own recipes do"
# In a regular expression: an escape, a class of characters, or a dot that stands alone.
_TOKEN = re.compile(r"\\.|\[\^?\]?[^\]]*\]|\.(?![*+?{])")


def _dots_for_any_character(ctx: LintContext) -> Iterator[LintWarning]:
    for modifier in ctx.timeline.modifiers:
        dotted = [p for p in [*modifier.parameter_patterns, *modifier.layer_patterns] if _is_dotted(p)]
        if not dotted:
            continue
        text = f"in '{dotted[0]}' a dot stands for any character"
        if len(dotted) > 1:
            text += f" (and in {len(dotted) - 1} more)"
        if ctx.targets and not modifier.layer_patterns:
            names = list(ctx.targets.parameters(ALL))
            more = [
                name
                for pattern in dotted
                for name in match_names(pattern, names)
                if name not in match_names(_with_literal_dots(pattern), names)
            ]
            text += f", and it also matches {more[0]}" if more else ", here only dots"
        else:
            text += ", dots too, so that it still matches all that was meant"
        yield modifier, f"{text}; exact is '{_with_literal_dots(dotted[0])}'"


def _is_dotted(pattern: str) -> bool:
    return pattern.startswith("re:") and any(token == "." for token in _TOKEN.findall(pattern))


def _with_literal_dots(pattern: str) -> str:
    return "re:" + _TOKEN.sub(lambda token: r"\." if token[0] == "." else token[0], pattern.removeprefix("re:"))


def _one_pattern_in_two_modifiers(ctx: LintContext) -> Iterator[LintWarning]:
    """What the manager will refuse, seen without a model."""
    masking = [modifier for modifier in ctx.acting() if modifier.masks_weights]
    for one, other in itertools.combinations(masking, 2):
        both = [pattern for pattern in one.parameter_patterns if pattern in other.parameter_patterns]
        if both and max(one.active_range[0], other.active_range[0]) < min(one.active_range[1], other.active_range[1]):
            yield (
                other,
                f"'{both[0]}' is pruned by another one, too ({window_text(one)} and {window_text(other)}): "
                "training refuses two masks for one weight at a time",
            )


def _two_patterns_for_one_weight(ctx: LintContext) -> Iterator[LintWarning]:
    for modifier in ctx.acting():
        patterns = modifier.parameter_patterns
        matched = {pattern: ctx.targets.parameters(pattern, strict=False) for pattern in patterns}
        for one, other in itertools.combinations(matched, 2):
            both = [name for name in matched[one] if name in matched[other]]
            if both:
                yield modifier, f"'{one}' and '{other}' both match {_and_more(both)}; once is enough"


def _two_modifiers_for_one_weight(ctx: LintContext) -> Iterator[LintWarning]:
    """Masks that fight are the manager's error; flags are not."""
    freezing = [modifier for modifier in ctx.acting() if modifier.sets_requires_grad]
    for one, other in itertools.combinations(freezing, 2):
        both = [
            name
            for name in ctx.targets.parameters(one.parameter_patterns, strict=False)
            if name in ctx.targets.parameters(other.parameter_patterns, strict=False)
        ]
        if both and max(one.active_range[0], other.active_range[0]) < min(one.active_range[1], other.active_range[1]):
            yield other, f"at the same time another one claims {_and_more(both)}"


def _prunes_what_is_no_matrix(ctx: LintContext) -> Iterator[LintWarning]:
    parameters = ctx.targets.parameters(ALL)
    for modifier in ctx.pruning():
        if modifier.masks_units:
            continue  # rows take their biases with them
        vectors = [name for name in modifier.pruned_names() if name in parameters and parameters[name].dim() < 2]
        if vectors:
            yield (
                modifier,
                f"it prunes {_and_more(vectors)}: biases and LayerNorms are few, and the model needs them",
            )


def _left_as_it_is(ctx: LintContext) -> Iterator[LintWarning]:
    """What the trainer will say before training, found out with a few made-up tokens."""
    model = ctx.targets.model
    separator = getattr(model.config, "sep_token_id", None)
    # Longformer counts the separators: it wants a question and a context.
    tokens = [5, 6, *[5 if separator is None else separator] * 2, 7, 5 if separator is None else separator]
    for modifier in ctx.timeline.modifiers:
        try:
            texts = modifier.skipped_modules({"input_ids": torch.tensor([tokens])})
        except (TypeError, ValueError, RuntimeError):  # the model takes more than tokens
            texts = modifier.skipped_modules(None)
        for text in texts:
            yield modifier, text


def _prunes_outside_the_encoder(ctx: LintContext) -> Iterator[LintWarning]:
    """``__ALL_PRUNABLE__``, or ``re:.*weight``, says it of few weights that every answer needs."""
    for modifier in ctx.pruning():
        if ctx.targets is None:
            if ALL_PRUNABLE in modifier.parameter_patterns:
                yield modifier, f"{ALL_PRUNABLE} also means word embeddings and the head: {_WHOLE}"
            continue
        matrices = set(modifier.pruned_names())
        tables = [f"{name}.weight" for name in ctx.targets.modules_of(nn.Embedding)]
        linear = [f"{name}.weight" for name in ctx.targets.modules_of(nn.Linear)]
        body = f"{ctx.targets.model.base_model_prefix}."
        outside = {
            "embeddings": [name for name in tables if name in matrices],
            "the head": [name for name in linear if name in matrices and not name.startswith(body)],
        }
        found = [f"{what} ({_and_more(names)})" for what, names in outside.items() if names]
        if found:
            yield modifier, f"it prunes {' and '.join(found)}, too: {_WHOLE}"


def _and_more(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


RULES = (_dots_for_any_character, _one_pattern_in_two_modifiers, _prunes_outside_the_encoder)
RULES_WITH_MODEL = (
    _two_patterns_for_one_weight,
    _two_modifiers_for_one_weight,
    _prunes_what_is_no_matrix,
    _left_as_it_is,
)
