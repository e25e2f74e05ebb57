"""SparseGPT and Wanda with the names and keys of llm-compressor.

Keys have the meaning that they have in vllm-project/llm-compressor at commit ab1ba3e (2026-08-22). docs/how-to.md lists
the differences.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from sparsification.base import TrainingStep
from sparsification.pruning import masks, reconstruction
from sparsification.pruning.layer_reconstruction import LayerReconstruction
from sparsification.pruning.masked_weights import MaskedWeights, PruningBase
from sparsification.pruning.reconstruction import Problem
from sparsification.pruning.reconstruction_modifier import check_block_size, check_calibration
from sparsification.samplers import CalibrationSampler
from sparsification.targets import ALL, Targets, match_names, no_match


@dataclass(kw_only=True)
class OneShotPruning(PruningBase):
    """Prune linear layers at ``start_epoch``, or in one shot, and hold their zeros."""

    sparsity: float | list[float]  # fraction to prune; a list has one value per target, in the order of the model
    mask_structure: str = "0:0"  # N:M prunes N of M neighbours of a row; 0:0 is unstructured
    targets: list[str] | str = field(default_factory=lambda: ["Linear"])  # classes, names or "re:" patterns
    ignore: list[str] = field(default_factory=list)  # classes, names or "re:" patterns
    sparsity_profile: str | None = None  # owl: lower sparsities for layers with more outliers
    owl_m: int | None = None  # an outlier is above this multiple of the mean
    owl_lmbda: float | None = None  # half of the largest difference between two sparsities
    sequential_update: bool | None = None  # accepted, without effect: layers are always pruned one after the other
    num_samples: int = 128  # training examples for calibration; an argument of oneshot() in llm-compressor
    batch_size: int = 16  # of calibration; an argument of oneshot(), too

    changes_weights: ClassVar[bool] = True
    acts_at_start: ClassVar[bool] = True
    samples_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_epoch != -1:
            raise ValueError(f"end_epoch {self.end_epoch:g}: it prunes once, at start_epoch; remove end_epoch")
        for sparsity in self.final_sparsities:
            if not 0 <= sparsity <= 1:
                raise ValueError(f"sparsity must be in [0, 1], got {sparsity:g}")
        match = re.fullmatch(r"(\d{1,3}):(\d{1,3})", self.mask_structure)
        if not match or not (int(match[1]) < int(match[2]) or self.mask_structure == "0:0"):
            raise ValueError(f"mask_structure '{self.mask_structure}' is neither 0:0 nor N:M with N < M, such as 2:4")
        pruned, group = int(match[1]), int(match[2])
        # N is the number of pruned weights of a group here, and of kept weights in mask_type.
        self._pattern = f"{group - pruned}:{group}" if pruned else "unstructured"
        self._pattern_sparsity = pruned / group if pruned else None
        if self.sparsity_profile is not None and self.sparsity_profile.lower() != "owl":
            raise ValueError(f"sparsity_profile must be owl or null, got '{self.sparsity_profile}'")
        given = [self.sparsity_profile is not None, self.owl_m is not None, self.owl_lmbda is not None]
        if any(given) and not all(given):
            raise ValueError("sparsity_profile: owl, owl_m and owl_lmbda must be given together")
        if any(given) and (pruned or isinstance(self.sparsity, list)):
            raise ValueError("sparsity_profile: owl needs a single sparsity and mask_structure 0:0")
        check_calibration(self.num_samples, self.batch_size, self._dampening)

    @property
    def _dampening(self) -> float:
        return 0.01

    @property
    def active_range(self) -> tuple[float, float]:
        start = max(self.start_epoch, 0.0)
        return start, start

    @property
    def final_sparsities(self) -> list[float]:
        return self.sparsity if isinstance(self.sparsity, list) else [self.sparsity]

    def target_sparsity(self, final: float, epoch: float, init: float | None = None) -> float:
        return final if epoch >= self.active_range[0] else 0.0

    def initialize(self, targets: Targets) -> None:
        linears = targets.modules_of(nn.Linear)
        wanted, missing = _matched(targets, self.targets)
        if missing:
            raise ValueError(f"targets: {missing[0]}")
        if isinstance(self.sparsity, list) and len(self.sparsity) != len(wanted):
            raise ValueError(f"{len(self.sparsity)} values of sparsity for {len(wanted)} modules that targets matches")
        ignored, self._not_there = _matched(targets, self.ignore)
        self._sparsities: dict[str, float] = {}
        weights: dict[str, nn.Parameter] = {}
        for index, target in enumerate(wanted):
            sparsity = self.sparsity[index] if isinstance(self.sparsity, list) else self.sparsity
            for name, module in linears.items():
                if (name == target or name.startswith(f"{target}.")) and name not in ignored:
                    key = f"{name}.weight"
                    parameter = module.get_parameter("weight")
                    if weights.setdefault(key, parameter) is parameter:
                        self._sparsities[key] = sparsity if self._pattern_sparsity is None else self._pattern_sparsity
        if not weights:
            raise ValueError("targets has no Linear layer, or ignore names all of them")
        for name, weight in weights.items():
            try:
                masks.compute_mask(weight.detach(), self._sparsities[name], self._pattern)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        self.masked = MaskedWeights(weights)
        self._layers = LayerReconstruction(targets.model, weights)

    def skipped_modules(self, example: Mapping[str, Tensor] | None) -> list[str]:
        # Not an error: many recipes of llm-compressor ignore an lm_head, which encoders do not have.
        return [f"ignore: {text}" for text in self._not_there]

    def set_calibration_sampler(self, sampler: CalibrationSampler) -> None:
        self._layers.sampler = sampler

    def zero_counts_at(self, epoch: float, before: Mapping[str, int]) -> dict[str, int]:
        return {
            name: masks.num_pruned(weight.shape, self._sparsities[name], self._pattern)
            for name, weight in self.masked.weights.items()
        }

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        if now.step == now.step_at(self.active_range[0]):
            self._prune(now.step)

    def apply_one_shot(self) -> None:
        self._prune(0)

    def _prune(self, step: int) -> None:
        batches = self._layers.batches(self.num_samples, self.batch_size, step)
        if self.sparsity_profile is not None:
            assert self.owl_m is not None and self.owl_lmbda is not None  # see __post_init__
            (sparsity,) = self.final_sparsities
            self._sparsities |= self._layers.by_outliers(batches, sparsity, self.owl_m, self.owl_lmbda)
        for name, keep in self._layers.reconstruct(batches, self._dampening, self._solve):
            self.masked.set_mask(name, keep)

    def _solve(self, name: str, problem: Problem) -> tuple[Tensor, Tensor]:
        """Compute the new weights of a layer and their bool mask."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Tensor]:
        return self.masked.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.masked.load_state_dict(state)

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        return {"sparsity": self.masked.sparsity()}


@dataclass(kw_only=True)
class WandaPruningModifier(OneShotPruning):
    """Prune in each row the weights with the smallest product of |w| and the norm of the input.

    Sun et al. 2023, arXiv:2306.11695. The kept weights are not changed; ``ReconstructionPruningModifier`` with
    ``mask_method: wanda`` also solves for them.
    """

    def _solve(self, name: str, problem: Problem) -> tuple[Tensor, Tensor]:
        return problem.weight, reconstruction.wanda_mask(problem, self._sparsities[name], self._pattern)


@dataclass(kw_only=True)
class SparseGPTModifier(OneShotPruning):
    """Prune columns from left to right, and update the columns to the right to compensate.

    Frantar & Alistarh 2023, arXiv:2301.00774. The targets are the outputs of the dense layer for the inputs of the
    pruned model. ``ReconstructionPruningModifier`` with ``mask_method: sparsegpt`` uses the outputs of the dense model,
    and solves for the kept weights at the end.
    """

    block_size: int = 128  # columns for which the mask is chosen at once
    dampening_frac: float | None = 0.01  # fraction of the inputs' mean square that is added to the diagonal; null: 0.01
    preserve_sparsity_mask: bool = False  # keep existing zeros; they count towards the sparsity
    offload_hessians: bool = False  # accepted, without effect: only those of one group of layers are kept

    def __post_init__(self) -> None:
        super().__post_init__()
        check_block_size(self.block_size, self._pattern)

    @property
    def _dampening(self) -> float:
        return 0.01 if self.dampening_frac is None else self.dampening_frac

    def _solve(self, name: str, problem: Problem) -> tuple[Tensor, Tensor]:
        zeros, sparsity = problem.weight == 0, self._sparsities[name]
        if not self.preserve_sparsity_mask:
            zeros = torch.zeros_like(zeros)
        elif int(zeros.sum()) > masks.num_pruned(zeros.shape, sparsity, self._pattern):
            raise ValueError(
                f"{name} has {float(zeros.double().mean()):.1%} zeros, more than sparsity {sparsity:g}: "
                "preserve_sparsity_mask cannot hold them"
            )
        return reconstruction.sparsegpt(
            problem, sparsity, self._pattern, self.block_size, target=problem.weight, zeros=zeros
        )


def _matched(targets: Targets, words: list[str] | str) -> tuple[list[str], list[str]]:
    """Names of the modules that a key selects, in the order of the model, and a message for each word without any."""
    modules = targets.modules_of(nn.Module)
    found: set[str] = set()
    missing = []
    for word in [words] if isinstance(words, str) else words:
        names = [name for name, module in modules.items() if _is_of_class(module, word)]
        names = names or (list(modules) if word == ALL else match_names(word, list(modules)))
        missing += [] if names else [no_match("module or class", word, list(modules))]
        found.update(names)
    return [name for name in modules if name in found], missing


def _is_of_class(module: nn.Module, name: str) -> bool:
    """Whether a module is an instance of a class of that name; fake-quantized layers are also Linear."""
    return any(kind.__name__ == name for kind in type(module).__mro__)
