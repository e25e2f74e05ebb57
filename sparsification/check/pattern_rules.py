"""Lint rules for valid but suspicious names and patterns of parameters.

Rules that look at parameters run only if there is a model, after the manager has initialized it.
"""

import itertools
import re
from collections.abc import Iterator

import torch
from torch import nn

from sparsification.check.rules import LintContext, LintWarning
from sparsification.check.timeline import window_text
from sparsification.targets import ALL, ALL_PRUNABLE, ENCODER, Targets, match_names

_WHOLE = f"{ENCODER} leaves both out, as SparseML's own recipes do"
# In a regular expression: an escape, a character class, or a dot without a quantifier.
_TOKEN = re.compile(r"\\.|\[\^?\]?[^\]]*\]|\.(?![*+?{])")


def _dots_for_any_character(ctx: LintContext) -> Iterator[LintWarning]:
    for modifier in ctx.timeline.modifiers:
        dotted = [p for p in [*modifier.parameter_patterns, *modifier.layer_patterns] if _is_dotted(p)]
        if not dotted:
            continue
        text = f"the dots in '{dotted[0]}' match any character"
        if len(dotted) > 1:
            text += f" (in {len(dotted) - 1} more patterns too)"
        if ctx.targets and not modifier.layer_patterns:
            names = list(ctx.targets.parameters(ALL))
            more = [
                name
                for pattern in dotted
                for name in match_names(pattern, names)
                if name not in match_names(_with_literal_dots(pattern), names)
            ]
            text += f", so that it also matches {more[0]}" if more else "; in this model they match only dots"
        yield modifier, f"{text}; to match dots, write '{_with_literal_dots(dotted[0])}'"


def _is_dotted(pattern: str) -> bool:
    return pattern.startswith("re:") and any(token == "." for token in _TOKEN.findall(pattern))


def _with_literal_dots(pattern: str) -> str:
    return "re:" + _TOKEN.sub(lambda token: r"\." if token[0] == "." else token[0], pattern.removeprefix("re:"))


def _one_pattern_in_two_modifiers(ctx: LintContext) -> Iterator[LintWarning]:
    """Conflicting masks, which the manager refuses, found without a model."""
    masking = [modifier for modifier in ctx.acting() if modifier.masks_weights]
    for one, other in itertools.combinations(masking, 2):
        both = [pattern for pattern in one.parameter_patterns if pattern in other.parameter_patterns]
        if both and max(one.active_range[0], other.active_range[0]) < min(one.active_range[1], other.active_range[1]):
            yield (
                other,
                f"'{both[0]}' is also pruned by another modifier ({window_text(one)} and {window_text(other)}): "
                "training refuses two masks for one weight at the same time",
            )


def _two_patterns_for_one_weight(ctx: LintContext, targets: Targets) -> Iterator[LintWarning]:
    for modifier in ctx.acting():
        patterns = modifier.parameter_patterns
        matched = {pattern: targets.parameters(pattern, strict=False) for pattern in patterns}
        for one, other in itertools.combinations(matched, 2):
            both = [name for name in matched[one] if name in matched[other]]
            if both:
                yield modifier, f"'{one}' and '{other}' both match {_and_more(both)}"


def _two_modifiers_for_one_weight(ctx: LintContext, targets: Targets) -> Iterator[LintWarning]:
    """Two modifiers that set ``requires_grad`` of one parameter; conflicting masks are an error of the manager."""
    freezing = [modifier for modifier in ctx.acting() if modifier.sets_requires_grad]
    for one, other in itertools.combinations(freezing, 2):
        both = [
            name
            for name in targets.parameters(one.parameter_patterns, strict=False)
            if name in targets.parameters(other.parameter_patterns, strict=False)
        ]
        if both and max(one.active_range[0], other.active_range[0]) < min(one.active_range[1], other.active_range[1]):
            yield other, f"another modifier sets requires_grad of {_and_more(both)} at the same time"


def _prunes_vectors(ctx: LintContext, targets: Targets) -> Iterator[LintWarning]:
    parameters = targets.parameters(ALL)
    for modifier in ctx.pruning():
        if modifier.masks_biases:
            continue  # rows are pruned together with their biases
        vectors = [name for name in modifier.pruned_names() if name in parameters and parameters[name].dim() < 2]
        if vectors:
            yield (
                modifier,
                f"it prunes {_and_more(vectors)}: pruning biases and LayerNorms saves little and costs accuracy",
            )


def _skipped_modules(ctx: LintContext, targets: Targets) -> Iterator[LintWarning]:
    """Warnings that the trainer logs before training, found with a few made-up tokens."""
    separator = getattr(targets.model.config, "sep_token_id", None)
    # Longformer needs the separators of a question and a context.
    tokens = [5, 6, *[5 if separator is None else separator] * 2, 7, 5 if separator is None else separator]
    for modifier in ctx.timeline.modifiers:
        try:
            texts = modifier.skipped_modules({"input_ids": torch.tensor([tokens])})
        except (TypeError, ValueError, RuntimeError):  # the model needs other inputs than tokens
            texts = modifier.skipped_modules(None)
        for text in texts:
            yield modifier, text


def _prunes_outside_the_encoder(ctx: LintContext) -> Iterator[LintWarning]:
    """Pruned embeddings or heads: few weights, which ``__ALL_PRUNABLE__`` and ``re:.*weight`` include."""
    for modifier in ctx.pruning():
        if ctx.targets is None:
            if ALL_PRUNABLE in modifier.parameter_patterns:
                yield modifier, f"{ALL_PRUNABLE} includes word embeddings and the head: {_WHOLE}"
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
            yield modifier, f"it also prunes {' and '.join(found)}: {_WHOLE}"


def _and_more(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


RULES = (_dots_for_any_character, _one_pattern_in_two_modifiers, _prunes_outside_the_encoder)
RULES_WITH_MODEL = (
    _two_patterns_for_one_weight,
    _two_modifiers_for_one_weight,
    _prunes_vectors,
    _skipped_modules,
)
