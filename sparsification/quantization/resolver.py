"""Assigns a quantization scheme to each module of a model, by the rules of one recipe.

Both forms of the recipe, SparseML's legacy keys and schemes, become one set of rules.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch.nn as nn

from sparsification.quantization.attention import attention_modules
from sparsification.quantization.fake_quantize import QuantizationArgs
from sparsification.quantization.modules import is_replaceable
from sparsification.quantization.scheme import Scheme
from sparsification.targets import Targets, match_names, no_match

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MATMUL_TYPE = "QATMatMul"  # SparseML's module type of attention's matrix products


@dataclass(frozen=True, kw_only=True)
class SchemeResolver:
    """Rules of one recipe for the schemes of modules. Names in rules are module names, "re:" patterns or types."""

    scheme: Scheme  # of modules that no override names
    overrides: Mapping[str, Scheme] = field(default_factory=dict)  # the first one that matches counts
    ignore: Collection[str] = ()
    strict: bool = True  # whether each name in overrides and ignore must match
    submodules: Collection[str] | None = None  # only modules inside of these; None: of the whole model
    exclude_types: Collection[str] = ()
    custom_types: Collection[str] = ()  # types that the model must not have, since none are quantized
    embeddings: bool = True  # whether tables of embeddings are quantized
    layer_norms: bool = False
    linear_outputs: bool = False  # quantized even where the scheme does not say so
    embedding_outputs: bool = False  # as linear_outputs
    matmul_outputs: bool = False  # as linear_outputs
    factor_bits: int = 8  # of the second factor of a matrix product

    def expand(self, targets: Targets) -> SchemeResolver:
        """Replace ``__ENCODER__`` at the start of names by the path of a model's layers."""
        return replace(
            self,
            submodules=None if self.submodules is None else targets.expand(list(self.submodules)),
            ignore=targets.expand(list(self.ignore)),
            overrides={name: scheme for word, scheme in self.overrides.items() for name in targets.expand(word)},
        )

    def with_reduced_range(self) -> SchemeResolver:
        """The same rules with 7 bits for weights that have 8, and for the second factor of a matrix product."""

        def reduced(scheme: Scheme) -> Scheme:
            weights = scheme.weights
            return replace(scheme, weights=replace(weights, bits=7)) if weights and weights.bits == 8 else scheme

        overrides = {name: reduced(scheme) for name, scheme in self.overrides.items()}
        return replace(self, scheme=reduced(self.scheme), overrides=overrides, factor_bits=7)

    def resolve(self, model: PreTrainedModel) -> tuple[dict[str, Scheme], list[str]]:
        """Assign schemes.

        Args:
            model: before fake quantizers are inserted, or afterwards.

        Returns:
            The scheme of each module that is to be quantized, by name; and the names of modules that cannot be, because
            they are subclasses with a ``forward`` of their own.

        Raises:
            ValueError: a rule names something that the model does not have.
        """
        attention = attention_modules(model)
        modules = {name: module for name, module in model.named_modules() if name}
        self._check_names(modules)
        schemes, subclassed = {}, []
        for name, module in modules.items():
            is_attention = name in attention
            scheme = self._matmul_scheme(name) if is_attention else self._module_scheme(name, module)
            if scheme is None or scheme == Scheme():
                continue
            if is_attention or is_replaceable(module):
                schemes[name] = scheme
            else:
                subclassed.append(name)
        return schemes, subclassed

    def scheme_of(self, name: str, type_name: str) -> Scheme | None:
        """Return the scheme that the rules give to a name and type, None where they exclude it."""

        def matches(word: str) -> bool:
            return word == type_name or _is_inside(name, word)

        inside = self.submodules is None or any(_is_inside(name, submodule) for submodule in self.submodules)
        if not inside or type_name in self.exclude_types or any(map(matches, self.ignore)):
            return None
        return next((scheme for word, scheme in self.overrides.items() if matches(word)), self.scheme)

    def _matmul_scheme(self, name: str) -> Scheme | None:
        scheme = self.scheme_of(name, MATMUL_TYPE)
        if scheme is None:
            return None
        # Both factors of a product are activations. The second one is rounded like a weight.
        weights = scheme.inputs and replace(scheme.inputs, symmetric=True, bits=self.factor_bits)
        return replace(scheme, weights=weights, outputs=_outputs(scheme, self.matmul_outputs))

    def _module_scheme(self, name: str, module: nn.Module) -> Scheme | None:
        scheme = self.scheme_of(name, type_name(module))
        if scheme is None:
            return None
        if isinstance(module, nn.Linear):
            return replace(scheme, outputs=_outputs(scheme, self.linear_outputs))
        if isinstance(module, nn.Embedding):
            weights = replace(scheme.weights, per_channel=False) if scheme.weights and self.embeddings else None
            return Scheme(weights=weights, outputs=_outputs(scheme, self.embedding_outputs))
        if isinstance(module, nn.LayerNorm) and self.layer_norms:
            return Scheme(outputs=scheme.inputs)
        return None

    def _check_names(self, modules: Mapping[str, nn.Module]) -> None:
        """Raise ValueError where a rule names a module or type that the model does not have."""
        names = list(modules)
        for submodule in self.submodules or ():
            if not match_names(submodule, names):
                raise ValueError(no_match("submodule", submodule, names))
        types = {type_name(module) for module in modules.values()} | {MATMUL_TYPE}
        for custom in self.custom_types:
            if custom in types:
                raise ValueError(f"custom_quantizable_module_types: modules of type {custom} cannot be quantized")
        if self.strict:
            for key, words in (("ignore", self.ignore), ("scheme_overrides", self.overrides)):
                for word in words:
                    if word not in types and not match_names(word, names):
                        raise ValueError(
                            f"{key}: {no_match('module or module type', word, [*sorted(types), *names])} "
                            "(strict: false allows it)"
                        )


def _outputs(scheme: Scheme, forced: bool) -> QuantizationArgs | None:
    return scheme.inputs if forced else scheme.outputs


def _is_inside(name: str, parent: str) -> bool:
    """Tell whether a module is one that a rule names, or inside of it."""
    return bool(match_names(parent, [name])) or name.startswith(f"{parent}.")


def type_name(module: nn.Module) -> str:
    """Return the type of a module as recipes name it, also after it has been replaced by a fake-quantized one."""
    return type(module).__name__.removeprefix("FakeQuantized")
