"""Which modules learn to live with int8, from when on, and when do their ranges stop moving?

Both of SparseML's forms of one modifier are here: that of 2021 names submodules and switches, the later one a scheme.
What is told in either becomes a ``Scheme`` for each module.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn as nn
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sparsification.base import Modifier, TrainingStep
from sparsification.quantization.fake_quantize import QuantizationArgs
from sparsification.quantization.modules import (
    Scheme,
    attention_modules,
    enable_fake_quant,
    fake_quantized_modules,
    insert_fake_quantizers,
    is_replaceable,
    quantizers,
    uncalled_modules,
)
from sparsification.quantization.scheme import ACTIVATIONS, WEIGHTS, check_bits, read_scheme
from sparsification.targets import Targets, match_names, no_match

_MATMUL_TYPE = "QATMatMul"  # what SparseML calls the type of attention's matrix products
_LEGACY_KEYS = (
    "submodules",
    "quantize_embeddings",
    "quantize_embedding_activations",
    "quantize_linear_activations",
    "quantize_conv_activations",
    "exclude_batchnorm",
    "exclude_module_types",
    "reduce_range",
    "activation_bits",
    "weight_bits",
    "tensorrt",
    "custom_quantizable_module_types",
    "activation_qconfig_kwargs",
    "weight_qconfig_kwargs",
)
_SCHEME_KEYS = ("scheme", "scheme_overrides", "ignore", "strict")


@dataclass(kw_only=True)
class QuantizationModifier(Modifier):
    """Quantization-aware training: from ``start_epoch`` on, compute with numbers that int8 can hold.

    Linear inputs and weights, embedding tables and attention's matrix products; Jacob et al. 2018, arXiv:1712.05877.
    SparseML put quantizers on outputs, too, which makes engines slower: here they are where a recipe asks for them.
    As in SparseML, a switch takes effect in the step after the one at its epoch; with ``start_epoch`` 0 at once.
    """

    disable_quantization_observer_epoch: float | None = None  # ranges are frozen from here on; None: at the end
    freeze_bn_stats_epoch: float | None = None  # BERT-like models have no batch normalization
    num_calibration_steps: int | None = None  # batches that set the ranges in one shot; None: all
    model_fuse_fn_name: str | None = "conv_bn_relus"  # BERT-like models have nothing to fuse
    model_fuse_fn_kwargs: dict[str, object] | None = None  # BERT-like models have nothing to fuse
    quantize_outputs: bool = False  # of all that is quantized, and of LayerNorm: SparseML's way
    # The form of 2021
    submodules: list[str] | None = None  # names, "re:" patterns or __ENCODER__; None: the whole model
    quantize_embeddings: bool = True
    quantize_embedding_activations: bool | None = None  # outputs; None: as quantize_outputs says
    quantize_linear_activations: bool | None = None  # outputs; None: as quantize_outputs says
    quantize_conv_activations: bool = True  # BERT-like models have no convolutions
    exclude_batchnorm: bool = True
    exclude_module_types: list[str] | None = None
    reduce_range: bool = False  # weights of 7 bits, whose sums cannot overflow on a CPU without VNNI
    activation_bits: int = 8
    weight_bits: int = 8
    tensorrt: bool = False  # symmetric activations
    custom_quantizable_module_types: list[str] | None = None  # the model must have none of these types
    activation_qconfig_kwargs: dict[str, object] | None = None  # of torch's observers, which are not used: empty
    weight_qconfig_kwargs: dict[str, object] | None = None  # of torch's observers, which are not used: empty
    # The scheme form
    scheme: str | dict[str, object] | None = None  # default, deepsparse, tensorrt or a mapping
    scheme_overrides: dict[str, object] | None = None  # schemes by module type or name
    ignore: list[str] | None = None  # module types, names or __ENCODER__
    strict: bool = True  # what ignore and scheme_overrides name must be there

    changes_weights: ClassVar[bool] = True
    quantizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_epoch != -1:
            raise ValueError(f"end_epoch {self.end_epoch:g}: quantization has no end, leave it out or give -1")
        frozen = self.disable_quantization_observer_epoch
        if frozen is not None and 0 <= frozen < self.active_range[0]:
            raise ValueError(
                f"disable_quantization_observer_epoch {frozen:g} is before start_epoch {self.active_range[0]:g}: "
                "the observers would see no data"
            )
        if self.num_calibration_steps is not None and self.num_calibration_steps < 1:
            raise ValueError(f"num_calibration_steps {self.num_calibration_steps}: the observers would see no data")
        self._uses_schemes = any(getattr(self, key) is not None for key in ("scheme", "scheme_overrides", "ignore"))
        if self._uses_schemes:
            defaults = {key: type(self).__dataclass_fields__[key].default for key in _LEGACY_KEYS}
            mixed = [key for key in _LEGACY_KEYS if getattr(self, key) != defaults[key]]
            if mixed:
                raise ValueError(
                    f"{mixed[0]} belongs to the form of 2021, {', '.join(_SCHEME_KEYS)} to the later one: use one"
                )
        for key in ("activation_qconfig_kwargs", "weight_qconfig_kwargs"):
            if getattr(self, key):
                raise ValueError(
                    f"{key} is for torch's observers, which are not used here: see activation_bits, scheme"
                )
        check_bits("activation_bits", self.activation_bits, (8,))
        check_bits("weight_bits", self.weight_bits, range(2, 9))
        self._scheme = self._own_scheme()
        self._overrides = {name: read_scheme(value, name) for name, value in (self.scheme_overrides or {}).items()}

    def _own_scheme(self) -> Scheme:
        if self._uses_schemes:
            return read_scheme(self.scheme, "scheme")
        weights = replace(WEIGHTS, bits=self.weight_bits - (self.reduce_range and self.weight_bits == 8))
        return Scheme(replace(ACTIVATIONS, symmetric=self.tensorrt), weights)

    @property
    def final_epoch(self) -> float:
        """Epoch from which a saved model can be exported: its ranges stand still."""
        return max(self.active_range[0], self.disable_quantization_observer_epoch or 0.0)

    @property
    def calibration_steps(self) -> int | None:
        return self.num_calibration_steps

    def warnings(self, length: float | None) -> Iterator[str]:
        frozen = self.disable_quantization_observer_epoch
        if frozen is None or frozen < 0:
            yield (
                "disable_quantization_observer_epoch is not given: ranges move until the end, weights never learn "
                "with the final ones, and no checkpoint before it can be exported"
            )
        elif length and frozen >= length:
            yield (
                f"disable_quantization_observer_epoch {frozen:g} is not before the end of the run at {length:g}: "
                "ranges move until then, weights never learn with the final ones"
            )

    # Structure

    def initialize(self, targets: Targets) -> None:
        model = targets.model
        self._submodules = self.submodules and targets.expand(self.submodules)
        self._ignored = targets.expand(self.ignore or [])
        self._overrides = {name: s for word, s in self._overrides.items() for name in targets.expand(word)}
        if self.freeze_bn_stats_epoch is not None and any(isinstance(m, _BatchNorm) for m in model.modules()):
            raise ValueError(
                "freeze_bn_stats_epoch: the model has batch normalization, whose statistics stay as they are"
            )
        schemes = self._schemes(model)
        if not schemes:
            raise ValueError("nothing is to be quantized: no Linear, Embedding or attention module is named")
        self._model = model
        targets.replace(insert_fake_quantizers(model, schemes))
        enable_fake_quant(model, False)
        self._quantizers = quantizers(model)

    def _schemes(self, model: nn.Module) -> dict[str, Scheme]:
        """The scheme of each module that is to be quantized, by name."""
        attention = attention_modules(model)
        modules = {name: module for name, module in model.named_modules() if name}
        self._check_names(modules)
        schemes, self._subclassed = {}, []
        for name, module in modules.items():
            if name in attention:
                scheme = self._scheme_of(name, _MATMUL_TYPE)
                scheme = scheme and replace(
                    scheme,
                    # Both factors of a product are activations. What stands in a weight's place is rounded like one.
                    weights=scheme.inputs and replace(scheme.inputs, symmetric=True, bits=self._factor_bits()),
                    outputs=self._outputs(scheme, self.quantize_outputs),
                )
            elif isinstance(module, nn.Linear):
                scheme = self._scheme_of(name, _type_name(module))
                scheme = scheme and replace(scheme, outputs=self._outputs(scheme, self.quantize_linear_activations))
            elif isinstance(module, nn.Embedding):
                scheme = self._scheme_of(name, _type_name(module)) if self.quantize_embeddings else None
                scheme = scheme and Scheme(
                    weights=scheme.weights and replace(scheme.weights, per_channel=False),
                    outputs=self._outputs(scheme, self.quantize_embedding_activations),
                )
            elif isinstance(module, nn.LayerNorm) and not self._uses_schemes and self.quantize_outputs:
                scheme = self._scheme_of(name, _type_name(module))
                scheme = scheme and Scheme(outputs=scheme.inputs)
            else:
                continue
            if not scheme or scheme == Scheme():
                continue
            if name in attention or is_replaceable(module):
                schemes[name] = scheme
            else:
                self._subclassed.append(name)
        return schemes

    def skipped_modules(self, example: Mapping[str, Tensor] | None) -> list[str]:
        texts = []
        if self._subclassed:
            kinds = {type(self._model.get_submodule(name)).__name__ for name in self._subclassed}
            texts.append(
                f"{_and_more(self._subclassed)} stays in fp32: {', '.join(sorted(kinds))} computes in its own way"
            )
        if not attention_modules(self._model) and self._scheme_of("", _MATMUL_TYPE):
            texts.append(
                f"attention's matrix products stay in fp32: {type(self._model).__name__} computes them in its own way"
            )
        if example is not None and (uncalled := uncalled_modules(self._model, example)):
            texts.append(
                f"{_and_more(uncalled)} stays in fp32: no forward pass calls it, the model takes its weight alone or "
                "does not use it"
            )
        return texts

    def _factor_bits(self) -> int:
        return 7 if self.reduce_range else 8

    def _outputs(self, scheme: Scheme, asked: bool | None) -> QuantizationArgs | None:
        if self._uses_schemes and not (asked and self.quantize_outputs):
            return scheme.outputs
        return scheme.inputs if (self.quantize_outputs if asked is None else asked) else None

    def _scheme_of(self, name: str, type_name: str) -> Scheme | None:
        """What the recipe says of a module: the scheme, an override, or None where it is left alone."""

        def means(word: str) -> bool:
            return word == type_name or _is_inside(name, word)

        if not self._uses_schemes:
            inside = self._submodules is None or any(_is_inside(name, submodule) for submodule in self._submodules)
            return None if not inside or type_name in (self.exclude_module_types or ()) else self._scheme
        if any(means(word) for word in self._ignored):
            return None
        return next((scheme for word, scheme in self._overrides.items() if means(word)), self._scheme)

    def _check_names(self, modules: Mapping[str, nn.Module]) -> None:
        """Raise ValueError where the recipe names a module that is not there."""
        names = list(modules)
        for submodule in self._submodules or ():
            if not match_names(submodule, names):
                raise ValueError(no_match("submodule", submodule, names))
        types = {_type_name(module) for module in modules.values()} | {_MATMUL_TYPE}
        for custom in self.custom_quantizable_module_types or ():
            if custom in types:
                raise ValueError(
                    f"custom_quantizable_module_types: there are modules of type {custom}, left as they are"
                )
        if self._uses_schemes and self.strict:
            for key, words in (("ignore", self._ignored), ("scheme_overrides", self._overrides)):
                for word in words:
                    if word not in types and not match_names(word, names):
                        raise ValueError(
                            f"{key}: {no_match('module or module type', word, [*sorted(types), *names])} "
                            "(strict: false lets it pass)"
                        )

    # Time

    def _switch(self, step: float, now: TrainingStep) -> None:
        """Be as it is in the forward pass of optimizer step ``step``."""
        start, frozen = self.active_range[0], self.disable_quantization_observer_epoch
        quantizing = start == 0 or step > now.step_at(start)
        # The first step at least, or there would be no ranges.
        last = math.inf if frozen is None or frozen < 0 else max(now.step_at(frozen), now.step_at(start) + 1)
        observing = quantizing and step <= last
        enable_fake_quant(self._model, quantizing)
        self._observe(observing)

    def _observe(self, observing: bool) -> None:
        for quantizer in self._quantizers.values():
            quantizer.observer_enabled = observing

    def on_train_begin(self, now: TrainingStep) -> None:
        self._switch(now.step, now)

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        self._switch(now.step + 1, now)

    def finalize(self) -> None:
        self._observe(False)

    def preview(self) -> None:
        self.start_epoch, self.disable_quantization_observer_epoch = -1.0, None

    def apply_one_shot(self) -> None:
        """Quantize, and let the batches that come next set the ranges, in evaluation mode too."""
        enable_fake_quant(self._model, True)
        self._observe(True)
        for quantizer in self._quantizers.values():
            quantizer.train()

    # What a resumed run and a dashboard want to know

    def state_dict(self) -> dict[str, Tensor]:
        """The ranges of what has been observed."""
        state = {}
        for name, quantizer in self._quantizers.items():
            if quantizer.observed:
                state |= {f"{name}.low": quantizer.min_val, f"{name}.high": quantizer.max_val}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, quantizer in self._quantizers.items():
            if f"{name}.low" in state:
                quantizer.set_range(state[f"{name}.low"], state[f"{name}.high"])

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        modules = list(fake_quantized_modules(self._model))
        active = [(name, module) for name, module in modules if module.fake_quant_enabled]
        series = {
            "num_fake_quantize_global": float(len(self._quantizers) if active else 0),
            "qat_observers_disabled": float(not any(q.observer_enabled for q in self._quantizers.values())),
        }
        # 0: not yet begun; 1: the ranges follow what they see; 2: they are frozen
        series["phase"] = 0.0 if not active else 1.0 + series["qat_observers_disabled"]
        if self.log_types == "__ALL__":
            for name, module in modules:
                qargs = module.scheme.weights or module.scheme.inputs or module.scheme.outputs
                series[f"QuantizationModifier/{name}/num_bits"] = float(
                    qargs.bits if module.fake_quant_enabled and qargs else 32
                )
        return series


def _and_more(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more" if len(names) > 1 else names[0]


def _is_inside(name: str, parent: str) -> bool:
    """Whether a module is one that a recipe names, or in it."""
    return bool(match_names(parent, [name])) or name.startswith(f"{parent}.")


def _type_name(module: nn.Module) -> str:
    return type(module).__name__.removeprefix("FakeQuantized")
