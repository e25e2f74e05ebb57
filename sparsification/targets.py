"""Which parameters and which layers of a model does a recipe mean?

A recipe names parameters exactly, by a regular expression after ``re:`` (matched from the start of the name, as
Python's ``re.match`` does), or by the tokens ``__ALL__`` and ``__ALL_PRUNABLE__`` (weights of Linear, convolution and
Embedding modules). Names are those of the model as it was loaded, also after layers have been dropped from it.
"""

import difflib
import re
from collections.abc import Sequence

import torch.nn as nn

ALL = "__ALL__"
ALL_PRUNABLE = "__ALL_PRUNABLE__"
PRUNABLE_MODULES = (nn.Linear, nn.Embedding, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_WRAPPER_PREFIX = re.compile(r"^(module\.|_orig_mod\.)+")  # of DistributedDataParallel and torch.compile


class TargetError(ValueError):
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
        prunable = {
            id(param) for module in model.modules() if isinstance(module, PRUNABLE_MODULES) for param in [module.weight]
        }
        self._prunable = [name for name, param in self._parameters.items() if id(param) in prunable]

    def parameters(self, patterns: str | Sequence[str], strict: bool = True) -> dict[str, nn.Parameter]:
        """Find the parameters that a recipe names, in the order of the model; dropped layers' are left out.

        Args:
            patterns: one name, ``re:`` pattern or token, or several.
            strict: whether a pattern that matches nothing is an error.

        Raises:
            TargetError: a pattern matches nothing; the message lists near matches.
        """
        chosen = set()
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if pattern == ALL:
                matched = list(self._parameters)
            elif pattern == ALL_PRUNABLE:
                matched = self._prunable
            else:
                matched = match_names(pattern, self._parameters)
            if strict and not matched:
                raise TargetError(no_match("parameter", pattern, list(self._parameters)))
            chosen.update(matched)
        present = {id(param) for param in self.model.parameters()}
        return {name: param for name, param in self._parameters.items() if name in chosen and id(param) in present}

    def modules(self, patterns: str | Sequence[str]) -> dict[str, nn.Module]:
        """Find the modules that a recipe names, in its order, those of one pattern in the model's.

        Dropped layers' are left out where a pattern matches others, too.

        Raises:
            TargetError: a pattern matches nothing that is left; the message lists near matches.
        """
        present = {id(module) for module in self.model.modules()}
        names = [name for name, module in self._modules.items() if id(module) in present]
        chosen: dict[str, nn.Module] = {}
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            matched = match_names(pattern, names)
            if not matched:
                raise TargetError(no_match("module", pattern, names))
            chosen |= {name: self._modules[name] for name in matched}
        return chosen

    def layers(self, patterns: str | Sequence[str]) -> dict[str, list[int]]:
        """Find the layers that a recipe names, each a member of an ``nn.ModuleList``.

        Args:
            patterns: names such as ``bert.encoder.layer.1``, or ``re:`` patterns.

        Returns:
            The name of each list, e.g. ``bert.encoder.layer``, with the indices that were named, ascending.

        Raises:
            TargetError: a name is not there, or is not a layer of a list.
        """
        layer_lists = {
            _WRAPPER_PREFIX.sub("", name): module
            for name, module in self.model.named_modules()
            if isinstance(module, nn.ModuleList)
        }
        members = [f"{name}.{index}" for name, layers in layer_lists.items() for index in range(len(layers))]
        chosen: dict[str, set[int]] = {}
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            matched = [
                name for name in members if name == pattern or _regex(pattern) and _regex(pattern).fullmatch(name)
            ]
            if not matched:
                sizes = ", ".join(f"{name} has layers 0 to {len(layers) - 1}" for name, layers in layer_lists.items())
                raise TargetError(
                    f"{no_match('layer', pattern, members)} ({sizes}; is the recipe for a larger model, "
                    "or has it been applied to this one before?)"
                )
            for name in matched:
                parent, index = name.rsplit(".", 1)
                chosen.setdefault(parent, set()).add(int(index))
        return {parent: sorted(indices) for parent, indices in chosen.items()}


def match_names(pattern: str, names: Sequence[str]) -> list[str]:
    """Names that a recipe's ``pattern`` means: equal to it, or matched by it from the start after ``re:``."""
    regex = _regex(pattern)
    return [name for name in names if (regex.match(name) if regex else name == pattern)]


def no_match(kind: str, pattern: str, names: Sequence[str]) -> str:
    """Say that ``pattern`` matches none of ``names``, and which of them it may have meant."""
    text = f"no {kind} matches '{pattern}'"
    regex = _regex(pattern)
    if regex and any(regex.search(name) for name in names):
        return f"{text}: an expression is matched from the start of a name; did you mean 're:.*{pattern[3:]}'?"
    literal = re.sub(r"[\\^$*+?()\[\]{}|]", "", pattern.removeprefix("re:"))
    near = difflib.get_close_matches(literal, names, n=3, cutoff=0.5)
    return f"{text}; did you mean {' or '.join(repr(name) for name in near)}?" if near else text


def _regex(pattern: str) -> re.Pattern | None:
    if not pattern.startswith("re:"):
        return None
    try:
        return re.compile(pattern[3:])
    except re.error as error:
        raise TargetError(f"'{pattern}' is no regular expression: {error}") from error
