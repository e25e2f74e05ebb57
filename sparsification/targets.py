"""Lookup of the parameters, modules and layers that a recipe names.

A recipe names parameters exactly, by a regular expression after ``re:`` (matched from the start of the name, as
Python's ``re.match`` does), or by a token:

- ``__ENCODER__``: weights of all ``nn.Linear`` modules inside the encoder's layers, in any architecture. Embeddings,
  poolers, heads, biases and normalization are not among them. ``__ENCODER__.3`` is layer 3 alone.
- ``__ALL_PRUNABLE__``: weights of all Linear, convolution and Embedding modules.
- ``__ALL__``: all parameters.

Where a recipe names modules or layers, ``__ENCODER__`` is the path of the encoder's layers: ``__ENCODER__.3`` is
``bert.encoder.layer.3`` in BERT and ``model.layers.3`` in ModernBERT.

Names are those of the model as it was loaded, also after layers have been dropped from it.

Recipes are untrusted, and the ``re`` module can take exponential time on an ambiguous expression. Expressions are
therefore compiled by ``re`` but matched by ``regex``, which has a timeout.
"""

from __future__ import annotations

import difflib
import math
import re
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

import regex
import torch.nn as nn

from sparsification.encoder import encoder_layer_lists
from sparsification.errors import SparsificationError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_Kind = TypeVar("_Kind", bound=nn.Module)

ALL = "__ALL__"
ALL_PRUNABLE = "__ALL_PRUNABLE__"
ENCODER = "__ENCODER__"
PRUNABLE_MODULES = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
NO_ENCODER = (
    "__ENCODER__ matches nothing: the model has no nn.ModuleList of layers with nn.Linear modules; name what you mean"
)
MAX_PATTERN = 1000  # characters
MAX_REPEATS = 1000  # all counts in braces, multiplied: regex writes repetitions out before it matches
MAX_SECONDS = 0.1  # CPU time for one pattern and all names; a usual pattern takes less than a millisecond
_WRAPPER_PREFIX = re.compile(r"^(module\.|_orig_mod\.)+")  # of DistributedDataParallel and torch.compile


class TargetError(SparsificationError, ValueError):
    """A recipe names something that the model does not have."""


class Targets:
    """The names of a model's parameters and modules, as they were when it was loaded.

    Args:
        model: the model, before any of its layers is dropped.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self._parameters = {_WRAPPER_PREFIX.sub("", name): param for name, param in model.named_parameters()}
        self._modules = {_WRAPPER_PREFIX.sub("", name): module for name, module in model.named_modules() if name}
        prunable = {id(module.weight) for module in model.modules() if isinstance(module, PRUNABLE_MODULES)}
        self._prunable = [name for name, param in self._parameters.items() if id(param) in prunable]
        self._encoder_paths = [_WRAPPER_PREFIX.sub("", name) for name in encoder_layer_lists(model)]
        linear = {id(module.weight) for module in model.modules() if isinstance(module, nn.Linear)}
        self._linear = [name for name, param in self._parameters.items() if id(param) in linear]

    def pretrained(self) -> PreTrainedModel:
        """Return the model of Transformers, without wrappers.

        Raises:
            TargetError: it is another model.
        """
        from transformers import PreTrainedModel  # the import takes seconds, unless there is such a model

        model = self.model
        while not isinstance(model, PreTrainedModel):
            inner = list(model.children())
            if len(inner) != 1:  # a wrapper has one child
                raise TargetError(f"the model must be a PreTrainedModel, got {type(self.model).__name__}")
            model = inner[0]
        return model

    def parameters(self, patterns: str | Sequence[str], strict: bool = True) -> dict[str, nn.Parameter]:
        """Find the parameters that a recipe names.

        Args:
            patterns: one name, ``re:`` pattern or token, or several.
            strict: whether a pattern that matches nothing is an error.

        Returns:
            The parameters by name, in the order of the model, without those of dropped layers.

        Raises:
            TargetError: a pattern matches nothing; the message lists near matches.
        """
        chosen = set()
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if pattern == ALL:
                matched = list(self._parameters)
            elif pattern == ALL_PRUNABLE:
                matched = self._prunable
            elif _is_encoder_token(pattern):
                paths = tuple(f"{path}{pattern.removeprefix(ENCODER)}." for path in self._encoder_paths)
                matched = [name for name in self._linear if name.startswith(paths)]
            else:
                matched = match_names(pattern, self._parameters)
            if strict and not matched:
                raise TargetError(self._no_parameter(pattern))
            chosen.update(matched)
        present = {id(param) for param in self.model.parameters()}
        return {name: param for name, param in self._parameters.items() if name in chosen and id(param) in present}

    def _no_parameter(self, pattern: str) -> str:
        """The message for a pattern without a match; one for another architecture is referred to the token."""
        if _is_encoder_token(pattern) and not self._encoder_paths:
            return NO_ENCODER
        text = no_match("parameter", pattern, list(self._parameters))
        if not self._encoder_paths or not pattern.startswith("re:") or "did you mean 're:" in text:
            return text
        path = self._encoder_paths[0]
        return f"{text}; __ENCODER__ means the weights of all Linear modules in this model's layers ({path})"

    def expand(self, patterns: str | Sequence[str]) -> list[str]:
        """Replace ``__ENCODER__`` at the start of names by the path of the encoder's layers.

        Args:
            patterns: one name or ``re:`` pattern, or several.

        Returns:
            ``__ENCODER__.3`` becomes ``bert.encoder.layer.3``; other patterns stay as they are. In a model with several
            encoders the token becomes one name for each.

        Raises:
            TargetError: the model has no encoder layers.
        """
        expanded: list[str] = []
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if not _is_encoder_token(pattern):
                expanded.append(pattern)
            elif not self._encoder_paths:
                raise TargetError(NO_ENCODER)
            else:
                expanded += [path + pattern.removeprefix(ENCODER) for path in self._encoder_paths]
        return expanded

    def modules(self, patterns: str | Sequence[str]) -> dict[str, nn.Module]:
        """Find the modules that a recipe names, with those of dropped layers.

        Args:
            patterns: names such as ``bert.encoder.layer.1`` or ``__ENCODER__.1``, or ``re:`` patterns. A list of
                layers, such as ``__ENCODER__``, stands for its members.

        Returns:
            The modules by name, in the order of the patterns, those of one pattern in the order of the model.

        Raises:
            TargetError: a pattern matches no module that is left; the message lists near matches.
        """
        left = self.left()
        chosen: dict[str, nn.Module] = {}
        for pattern in self.expand(patterns):
            names = match_names(pattern, self._modules)
            matched = {part: self._modules[part] for name in names for part in self._members(name)}
            if left.isdisjoint(matched.values()):
                raise TargetError(no_match("module", pattern, [n for n, m in self._modules.items() if m in left]))
            chosen |= matched
        return chosen

    def modules_of(self, *kinds: type[_Kind], dropped: bool = False) -> dict[str, _Kind]:
        """All modules of some classes by name, in the order of the model; ``dropped``: with those of dropped layers."""
        kept = set(self._modules.values()) if dropped else self.left()
        return {name: module for name, module in self._modules.items() if isinstance(module, kinds) and module in kept}

    def _members(self, name: str) -> list[str]:
        """Names of the members of a list of layers; of another module, its own."""
        module = self._modules[name]
        return [f"{name}.{i}" for i in range(len(module))] if isinstance(module, nn.ModuleList) else [name]

    def left(self) -> set[nn.Module]:
        """The modules that the model has, without those of dropped layers."""
        return set(self.model.modules())

    def replace(self, swapped: Mapping[nn.Module, nn.Module]) -> None:
        """Let the names of modules refer to the modules that have replaced them."""
        self._modules = {name: swapped.get(module, module) for name, module in self._modules.items()}

    def layers(self, patterns: str | Sequence[str]) -> dict[str, list[int]]:
        """Find the layers that a recipe names, each a member of an ``nn.ModuleList``.

        Args:
            patterns: names such as ``bert.encoder.layer.1`` or ``__ENCODER__.1``, or ``re:`` patterns.

        Returns:
            The name of each list, e.g. ``bert.encoder.layer``, with the indices that were named, ascending.

        Raises:
            TargetError: a pattern matches no member of a list.
        """
        layer_lists = {
            _WRAPPER_PREFIX.sub("", name): module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.ModuleList)
        }
        members = [f"{name}.{index}" for name, layers in layer_lists.items() for index in range(len(layers))]
        chosen: dict[str, set[int]] = {}
        for pattern in self.expand(patterns):
            matched = match_names(pattern, members, "fullmatch")
            if not matched:
                sizes = ", ".join(f"{name} has layers 0 to {len(layers) - 1}" for name, layers in layer_lists.items())
                why = f"{sizes}; is the recipe for a larger model, or has it been applied to this one before?"
                raise TargetError(f"{no_match('layer', pattern, members)} ({why})")
            for name in matched:
                parent, index = name.rsplit(".", 1)
                chosen.setdefault(parent, set()).add(int(index))
        return {parent: sorted(indices) for parent, indices in chosen.items()}


def match_names(
    pattern: str, names: Collection[str], how: Literal["match", "fullmatch", "search"] = "match"
) -> list[str]:
    """Find the names that are equal to a pattern or, after ``re:``, match it.

    Args:
        pattern: a name, or ``re:`` and a regular expression.
        names: the names to choose from.
        how: whether an expression has to match from the start, from start to end, or anywhere.

    Raises:
        TargetError: the expression is invalid, or takes too long to match.
    """
    if not pattern.startswith("re:"):
        return [name for name in names if name == pattern]
    expression = _compiled(pattern)
    match = {"match": expression.match, "fullmatch": expression.fullmatch, "search": expression.search}[how]
    deadline = time.process_time() + MAX_SECONDS
    try:
        # The timeout counts CPU time: a busy machine refuses no recipe.
        return [name for name in names if match(name, timeout=max(deadline - time.process_time(), 0.0))]
    except TimeoutError as error:
        message = f"{_short(pattern)} takes too long to match; is there a repetition in a repetition?"
        raise TargetError(message) from error


def no_match(kind: str, pattern: str, names: Sequence[str]) -> str:
    """The message for a pattern that matches no name, with near matches."""
    text = f"no {kind} matches {_short(pattern)}"
    if pattern.startswith("re:") and match_names(pattern, names, "search"):
        return f"{text}: an expression is matched from the start of a name; did you mean 're:.*{pattern[3:]}'?"
    if own := _with_own_prefix(pattern, names):
        return f"{text}; did you mean '{own}'?"
    literal = re.sub(r"[\\^$*+?()\[\]{}|]", "", pattern.removeprefix("re:"))
    near = difflib.get_close_matches(literal, names, n=3, cutoff=0.5)
    if near:
        return f"{text}; did you mean {' or '.join(repr(name) for name in near)}?"
    top = [name for name in names if name.count(".") <= 1][:8]
    return f"{text}; there are {', '.join(top)}, ..." if top else text


def _with_own_prefix(pattern: str, names: Sequence[str]) -> str | None:
    """``pattern`` with this model's own first name, if it then matches: ``roberta.`` for ``bert.``."""
    parts = re.fullmatch(r"(re:\^?)?(\w+)(\\?\..+)", pattern, re.DOTALL)
    if parts is None:
        return None
    tops = dict.fromkeys(name.split(".")[0] for name in names if "." in name)
    candidates = [f"{parts[1] or ''}{top}{parts[3]}" for top in tops if top != parts[2]]
    return next((candidate for candidate in candidates[:10] if match_names(candidate, names)), None)


def _compiled(pattern: str) -> regex.Pattern:
    """Compile the expression after ``re:``."""
    expression = pattern[3:]
    if len(expression) > MAX_PATTERN:
        raise TargetError(f"{_short(pattern)} is longer than {MAX_PATTERN} characters")
    counts = [max(map(int, re.findall(r"\d+", braces))) for braces in re.findall(r"\{[\d,]*\d[\d,]*\}", expression)]
    if math.prod(max(count, 1) for count in counts) > MAX_REPEATS:
        raise TargetError(f"{_short(pattern)} repeats too often: its counts in braces make more than {MAX_REPEATS}")
    try:
        re.compile(expression)  # refuses what regex alone accepts, such as recursion
        return regex.compile(expression)
    except (re.error, regex.error) as error:
        raise TargetError(f"{_short(pattern)} is no regular expression: {error}") from error
    except RecursionError as error:
        raise TargetError(f"{_short(pattern)} is nested too deeply") from error


def _is_encoder_token(pattern: str) -> bool:
    """Whether a pattern is ``__ENCODER__``, or a name that starts with it."""
    return pattern == ENCODER or pattern.startswith(f"{ENCODER}.")


def _short(pattern: str) -> str:
    """A pattern as messages show it: quoted, at most 100 characters."""
    return f"'{pattern}'" if len(pattern) <= 100 else f"'{pattern[:97]}...'"
