"""Quantization-aware training: the keys of ``QuantizationModifier``, and its effect at each step of a run.

Accepts SparseML's legacy keys (submodules and switches) or schemes. Which module gets which scheme is in ``resolver``.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from sparsification.base import Modifier, TrainingStep
from sparsification.quantization.attention import attention_modules
from sparsification.quantization.modules import (
    enable_fake_quant,
    fake_quantized_modules,
    insert_fake_quantizers,
    quantizers,
    uncalled_modules,
)
from sparsification.quantization.resolver import MATMUL_TYPE, SchemeResolver
from sparsification.quantization.scheme import ACTIVATIONS, WEIGHTS, Scheme, check_bits, read_scheme
from sparsification.targets import Targets

_LEGACY_KEYS = (
    "submodules",
    "quantize_embeddings",
    "quantize_embedding_activations",
    "quantize_linear_activations",
    "quantize_conv_activations",
    "exclude_batchnorm",
    "exclude_module_types",
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
    """Quantization-aware training: fake-quantize modules from ``start_epoch`` on.

    Fake-quantizes inputs and weights of Linear layers, embedding tables, and the factors of attention's matrix
    products. Outputs are quantized only if the recipe sets it, because inference engines are slower with them; SparseML
    quantized them by default. As in SparseML, a switch takes effect in the step after the one at its epoch; with
    ``start_epoch`` 0, quantization starts in the first step. Jacob et al. 2018, arXiv:1712.05877.
    """

    disable_quantization_observer_epoch: float | None = None  # ranges are frozen from here on; None: at the end
    freeze_bn_stats_epoch: float | None = None  # no effect: the model must have no batch normalization
    num_calibration_steps: int | None = None  # calibration batches in one-shot mode; None: all
    model_fuse_fn_name: str | None = "conv_bn_relus"  # no effect: BERT-like models have no layers to fuse
    model_fuse_fn_kwargs: dict[str, object] | None = None  # no effect: BERT-like models have no layers to fuse
    quantize_outputs: bool = False  # also quantize outputs, LayerNorm's too, as SparseML does
    reduce_range: bool = False  # 7 bits instead of 8 for weights, whose int8 sums cannot overflow on a CPU without VNNI
    # Legacy keys
    submodules: list[str] | None = None  # modules to quantize, e.g. __ENCODER__; None: the whole model
    quantize_embeddings: bool = True  # tables of embeddings
    quantize_embedding_activations: bool | None = None  # outputs of embeddings; None: the value of quantize_outputs
    quantize_linear_activations: bool | None = None  # outputs of Linear layers; None: the value of quantize_outputs
    quantize_conv_activations: bool = True  # no effect: BERT-like models have no convolutions
    exclude_batchnorm: bool = True  # no effect: the model must have no batch normalization
    exclude_module_types: list[str] | None = None  # class names of modules that are not quantized
    activation_bits: int = 8  # must be 8
    weight_bits: int = 8  # 2 to 8
    tensorrt: bool = False  # symmetric activations; outputs of Linear layers and embeddings are not quantized
    custom_quantizable_module_types: list[str] | None = None  # not supported: the model must have none of these types
    activation_qconfig_kwargs: dict[str, object] | None = None  # must be empty: torch's observers are not used
    weight_qconfig_kwargs: dict[str, object] | None = None  # must be empty: torch's observers are not used
    # Scheme keys
    scheme: str | dict[str, object] | None = None  # default, deepsparse, tensorrt or a mapping
    scheme_overrides: dict[str, object] | None = None  # schemes by module type or name
    ignore: list[str] | None = None  # module types or names, or __ENCODER__, that are not quantized
    strict: bool = True  # whether a name in ignore or scheme_overrides without a match is an error

    changes_weights: ClassVar[bool] = True
    quantizes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_epoch != -1:
            raise ValueError(f"end_epoch must be -1, got {self.end_epoch:g}: quantization has no end")
        start, frozen = self.active_range[0], self.disable_quantization_observer_epoch
        if frozen is not None and 0 <= frozen < start:
            raise ValueError(
                f"disable_quantization_observer_epoch must be at least start_epoch {start:g}, got {frozen:g}: "
                "the observers would see no data"
            )
        if self.num_calibration_steps is not None and self.num_calibration_steps < 1:
            raise ValueError(
                f"num_calibration_steps must be at least 1, got {self.num_calibration_steps}: "
                "the observers would see no data"
            )
        self._uses_schemes = any(getattr(self, key) is not None for key in ("scheme", "scheme_overrides", "ignore"))
        if self._uses_schemes:
            self._check_no_legacy_keys()
        for key in ("activation_qconfig_kwargs", "weight_qconfig_kwargs"):
            if getattr(self, key):
                raise ValueError(
                    f"{key} must be empty, because torch's observers are not used; use weight_bits, tensorrt or scheme"
                )
        check_bits("activation_bits", self.activation_bits, (8,))
        check_bits("weight_bits", self.weight_bits, range(2, 9))
        resolver = self._scheme_rules() if self._uses_schemes else self._legacy_rules()
        self._resolver = resolver.with_reduced_range() if self.reduce_range else resolver

    def _check_no_legacy_keys(self) -> None:
        defaults = {key: type(self).__dataclass_fields__[key].default for key in _LEGACY_KEYS}
        mixed = [key for key in _LEGACY_KEYS if getattr(self, key) != defaults[key]]
        if mixed:
            raise ValueError(f"{mixed[0]} is a legacy key and cannot be combined with {', '.join(_SCHEME_KEYS)}")

    def _scheme_rules(self) -> SchemeResolver:
        return SchemeResolver(
            scheme=read_scheme(self.scheme, "scheme"),
            overrides={name: read_scheme(value, name) for name, value in (self.scheme_overrides or {}).items()},
            ignore=self.ignore or (),
            strict=self.strict,
            matmul_outputs=self.quantize_outputs,
        )

    def _legacy_rules(self) -> SchemeResolver:
        def outputs(value: bool | None) -> bool:
            return not self.tensorrt and (self.quantize_outputs if value is None else value)

        activations = replace(ACTIVATIONS, symmetric=self.tensorrt)
        return SchemeResolver(
            scheme=Scheme(activations, replace(WEIGHTS, bits=self.weight_bits)),
            submodules=self.submodules,
            exclude_types=self.exclude_module_types or (),
            custom_types=self.custom_quantizable_module_types or (),
            embeddings=self.quantize_embeddings,
            layer_norms=self.quantize_outputs,
            linear_outputs=outputs(self.quantize_linear_activations),
            embedding_outputs=outputs(self.quantize_embedding_activations),
            matmul_outputs=self.quantize_outputs,
        )

    @property
    def final_epoch(self) -> float:
        """Epoch from which a saved model can be exported, because its ranges are frozen."""
        return max(self.active_range[0], self.disable_quantization_observer_epoch or 0.0)

    @property
    def calibration_steps(self) -> int | None:
        return self.num_calibration_steps

    def warnings(self, length: float | None) -> Iterator[str]:
        frozen = self.disable_quantization_observer_epoch
        if frozen is None or frozen < 0:
            yield (
                "disable_quantization_observer_epoch is not set: ranges change until the end, weights are never "
                "trained with the final ones, and no earlier checkpoint can be exported"
            )
        elif length and frozen >= length:
            yield (
                f"disable_quantization_observer_epoch {frozen:g} is not before the end of the run at {length:g}: "
                "weights are never trained with the final ranges"
            )

    # Structure

    def initialize(self, targets: Targets) -> None:
        modules = targets.model.modules()
        if self.freeze_bn_stats_epoch is not None and any(isinstance(module, _BatchNorm) for module in modules):
            raise ValueError("freeze_bn_stats_epoch is not supported, and the model has batch normalization")
        self._resolver = self._resolver.expand(targets)
        model = targets.pretrained()
        schemes, self._subclassed = self._resolver.resolve(model)
        if not schemes:
            raise ValueError("the recipe quantizes no Linear, Embedding or attention module of the model")
        self._model = model
        targets.replace(insert_fake_quantizers(model, schemes))
        enable_fake_quant(model, False)
        self._quantizers = quantizers(model)

    def skipped_modules(self, example: Mapping[str, Tensor] | None) -> list[str]:
        texts = []
        if self._subclassed:
            kinds = {type(self._model.get_submodule(name)).__name__ for name in self._subclassed}
            texts.append(f"{_in_fp32(self._subclassed)}: forward is overridden in {', '.join(sorted(kinds))}")
        if not attention_modules(self._model) and self._resolver.scheme_of("", MATMUL_TYPE):
            kind = type(self._model).__name__
            texts.append(f"attention's matrix products stay in fp32: {kind} uses its own attention function")
        if example is not None and (uncalled := uncalled_modules(self._model, example)):
            texts.append(
                f"{_in_fp32(uncalled)}: no forward pass calls it, "
                "the model reads its weight directly or does not use it"
            )
        return texts

    # Time

    def _switch(self, step: float, now: TrainingStep) -> None:
        """Set the switches for the forward pass of optimizer step ``step``."""
        start, frozen = self.active_range[0], self.disable_quantization_observer_epoch
        enabled = start == 0 or step > now.step_at(start)
        # At least one step is observed: without it there would be no ranges.
        last = math.inf if frozen is None or frozen < 0 else max(now.step_at(frozen), now.step_at(start) + 1)
        enable_fake_quant(self._model, enabled)
        self._enable_observers(enabled and step <= last)

    def _enable_observers(self, enabled: bool) -> None:
        for quantizer in self._quantizers.values():
            quantizer.observer_enabled = enabled

    def on_train_begin(self, now: TrainingStep) -> None:
        self._switch(now.step, now)

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        self._switch(now.step + 1, now)

    def finalize(self) -> None:
        self._enable_observers(False)

    def preview(self) -> None:
        self.start_epoch, self.disable_quantization_observer_epoch = -1.0, None

    def apply_one_shot(self) -> None:
        """Enable fake quantization; the following batches calibrate the ranges, also in evaluation mode."""
        enable_fake_quant(self._model, True)
        self._enable_observers(True)
        for quantizer in self._quantizers.values():
            quantizer.train()

    # State of a resumed run, and series of dashboards

    def state_dict(self) -> dict[str, Tensor]:
        """Return the observed ranges."""
        state: dict[str, Tensor] = {}
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
        enabled = any(module.fake_quant_enabled for _, module in modules)
        frozen = not any(quantizer.observer_enabled for quantizer in self._quantizers.values())
        series = {
            "num_fake_quantize_global": float(len(self._quantizers) if enabled else 0),
            "qat_observers_disabled": float(frozen),
            # 0: not started; 1: ranges are observed; 2: ranges are frozen
            "phase": 1.0 + frozen if enabled else 0.0,
        }
        if self.log_types == "__ALL__":
            for name, module in modules:
                qargs = module.scheme.weights or module.scheme.inputs or module.scheme.outputs
                series[f"QuantizationModifier/{name}/num_bits"] = float(
                    qargs.bits if module.fake_quant_enabled and qargs else 32
                )
        return series


def _in_fp32(names: list[str]) -> str:
    return f"{names[0]} and {len(names) - 1} more stay in fp32" if len(names) > 1 else f"{names[0]} stays in fp32"
