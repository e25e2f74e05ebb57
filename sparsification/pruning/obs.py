"""Second-order pruning with the inverse Fisher matrix in blocks (oBERT)."""

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sparsification.base import TrainingStep
from sparsification.logits import distillation_loss, distributions
from sparsification.pruning import fisher, masks
from sparsification.pruning.gradient_sampling import GradientSampledPruning, from_first_process
from sparsification.samplers import CalibrationSampler, SampledGradients
from sparsification.targets import Targets

logger = logging.getLogger(__name__)

AUTO_DAMPS = (0.01, 0.1, 1.0, 10.0, 100.0)  # as multiples of the mean diagonal of the Fisher matrix
TRIAL_EXAMPLES, TRIAL_BATCH = 64, 8  # on which the values of damp are compared
TRIAL_SPARSITY = 0.5  # at least, unless the final sparsity is lower


@dataclass(kw_only=True)
class OBSPruningModifier(GradientSampledPruning):
    """Prune the weights with the smallest second-order increase of the loss, and update the others (oBERT).

    Kurtic et al. 2022, arXiv:2203.07259. Before each new mask the inverse Fisher matrix is estimated from ``num_grads``
    gradients of the loss, in evaluation mode and fp32, in blocks of ``fisher_block_size`` consecutive weights. It takes
    4 bytes x weights x block size while masks are computed: 17 GB for BERT-base's encoder with the paper's blocks of
    50, 0.3 GB with blocks of 1, which ignore interactions between weights. Pruned weights do not come back.

    ``fisher_labels`` selects the loss: ``data``, the task loss (empirical Fisher matrix, as in SparseML); ``model``,
    with labels drawn from the model's own softmax (Fisher matrix), for a model that has memorized its data, where the
    empirical one vanishes first (Kunstner et al. 2019, arXiv:1905.12558); ``teacher``, the distillation loss at its
    temperature, which is 0 while student and teacher are equal.

    With ``damp: auto`` or a list, the first mask compares several values. From the same gradients it prunes once with
    each, to 50 % or to the first mask's sparsity if that is higher, and keeps the value for which the model's outputs
    change least, as Kullback-Leibler divergence on 64 training examples. For each value this costs an inversion and a
    forward pass over these examples, and for the first mask twice the memory.
    """

    global_sparsity: bool = True
    num_grads: int = 1024  # batches from which the Fisher matrix is estimated
    damp: float | list[float] | Literal["auto"] = 1e-7  # added to the Fisher matrix's diagonal; or candidates for it
    fisher_block_size: int = 1  # 50 in the paper, 32 for block4
    num_recomputations: int = 1  # estimates, each with a mask, between one sparsity and the next

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("num_grads", "fisher_block_size", "num_recomputations"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")
        self._damp = self.damp if isinstance(self.damp, int | float) else None  # None: the first mask finds it
        if self.damp == []:
            raise ValueError("damp must have at least one value, got []")
        smallest = min(self.damp) if isinstance(self.damp, list) else self._damp
        if smallest is not None and smallest <= 0:
            raise ValueError(f"damp must be greater than 0 for the Fisher matrix to have an inverse, got {smallest:g}")
        pattern = masks.parse_mask_type(self.mask_type)
        if pattern == "channel" or (isinstance(pattern, tuple) and pattern[0] > 1):
            raise ValueError(f"mask_type must have blocks within one row, [1, n], got {self.mask_type}")
        self._group = 4 if pattern == "block4" else pattern[1] if isinstance(pattern, tuple) else 1
        if self.fisher_block_size % self._group:
            raise ValueError(
                f"fisher_block_size must be a multiple of {self._group} with mask_type {self.mask_type}, e.g. "
                f"{8 * self._group}, got {self.fisher_block_size}"
            )
        self._inputs: CalibrationSampler | None = None  # the manager's

    def initialize(self, targets: Targets) -> None:
        super().initialize(targets)
        self._model = targets.model
        for name, weight in self.masked.weights.items():
            if weight.dim() > 2 and self._group > 1:
                raise ValueError(f"{name}: blocks need a matrix here, got a weight of shape {tuple(weight.shape)}")
            if weight.shape[-1] % self._group:
                raise ValueError(f"{name}: blocks of {self._group} do not tile rows of {weight.shape[-1]}")

    def set_calibration_sampler(self, sampler: CalibrationSampler) -> None:
        self._inputs = sampler

    def sampled_gradients(self) -> SampledGradients:
        matrices = 1 if self._damp is not None else 2  # to compare values of damp
        num_weights = sum(weight.numel() for weight in self.masked.weights.values())
        num_bytes = 4 * matrices * self.fisher_block_size * num_weights
        return SampledGradients(
            self.num_grads * self.num_recomputations, self._batch_size, self.fisher_labels, num_bytes
        )

    def compute_masks(self, targets: Mapping[str, float], step: int, progress: float) -> dict[str, Tensor]:
        before = self._target_sparsity or dict.fromkeys(targets, 0.0)
        for part in range(1, self.num_recomputations):
            share = part / self.num_recomputations
            between = {name: before[name] + (target - before[name]) * share for name, target in targets.items()}
            self._apply_masks(self._prune_once(between, (step, part)))
        return self._prune_once(targets, (step, self.num_recomputations))

    def _prune_once(self, targets: Mapping[str, float], moment: tuple[int, int]) -> dict[str, Tensor]:
        """Compute masks from a new estimate, and move the weights that stay."""
        if self._damp is not None:
            return self._prune(self._estimate(self._damp, moment), targets)
        matrices = self._fisher(moment)
        self._damp = self._best_damp(matrices, targets, moment)
        return self._prune(self._finite(_inverses(matrices, self._damp), self._damp), targets)

    def _prune(self, inverses: Mapping[str, Tensor], targets: Mapping[str, float]) -> dict[str, Tensor]:
        """Compute masks from the inverse Fisher matrices, and move the weights that stay."""

        def score(name: str) -> Tensor:
            weight = self.masked.weights[name].detach().float()
            return from_first_process(fisher.saliency(weight, inverses[name], self._group))

        keeps = self.masks_by_score(score, targets)
        for name, keep in keeps.items():
            weight = self.masked.weights[name].detach()
            weight += fisher.obs_update(weight, inverses[name], keep, self._group)
            from_first_process(weight)
        return keeps

    def _estimate(self, damp: float, moment: tuple[int, int]) -> dict[str, Tensor]:
        """Build the inverse Fisher matrix of each weight."""
        inverses = {
            name: fisher.damped_inverse(weight.numel(), self.fisher_block_size, damp, weight.device)
            for name, weight in self.masked.weights.items()
        }
        for gradients in self._gradients(self.num_grads, moment, self.fisher_labels):
            for name, gradient in gradients.items():
                fisher.add_gradient_(inverses[name], self.masked.apply(name, gradient), self.num_grads)
        return self._finite(inverses, damp)

    def _finite(self, inverses: dict[str, Tensor], damp: float) -> dict[str, Tensor]:
        """Return the inverse Fisher matrices, after a check of their diagonals."""
        for name, inverse in inverses.items():
            if not inverse.diagonal(dim1=1, dim2=2).isfinite().all():
                raise ValueError(
                    f"{name}: the inverse Fisher matrix is not finite: either the gradients are not (is the loss nan?) "
                    f"or they are too large for damp {damp:g}"
                )
        return inverses

    def _fisher(self, moment: tuple[int, int]) -> dict[str, Tensor]:
        """Build the Fisher matrix of each weight, without damp, the same on all processes."""
        size = self.fisher_block_size
        matrices = {
            name: torch.zeros(-(-weight.numel() // size), size, size, device=weight.device)
            for name, weight in self.masked.weights.items()
        }
        for gradients in self._gradients(self.num_grads, moment, self.fisher_labels):
            for name, gradient in gradients.items():
                fisher.add_outer_product_(matrices[name], self.masked.apply(name, gradient), self.num_grads)
        return {name: from_first_process(matrix) for name, matrix in matrices.items()}

    def _best_damp(
        self, matrices: Mapping[str, Tensor], targets: Mapping[str, float], moment: tuple[int, int]
    ) -> float:
        """Find the damp with which a trial mask changes the model's outputs least; the weights are restored."""
        if self._inputs is None:
            raise ValueError("damp is compared on data: call ScheduledModifierManager.set_calibration_sampler first")
        weights = {name: weight.detach() for name, weight in self.masked.weights.items()}
        num_weights = sum(weight.numel() for weight in weights.values())
        damps = self.damp if isinstance(self.damp, list) else _auto_damps(matrices, num_weights)
        trial = {name: max(target, min(TRIAL_SPARSITY, self._final[name])) for name, target in targets.items()}
        batches = self._inputs(TRIAL_EXAMPLES, TRIAL_BATCH, moment)
        before, outputs = {name: weight.clone() for name, weight in weights.items()}, self._outputs(batches)
        losses = []
        for damp in damps:
            for name, keep in self._prune(_inverses(matrices, damp), trial).items():
                weights[name].mul_(keep)
            pairs = zip(self._outputs(batches), outputs, strict=True)
            parts = [distillation_loss(own[name], dense[name], 1.0) for own, dense in pairs for name in dense]
            losses.append(torch.stack(parts).mean().nan_to_num(nan=torch.inf))
            for name, weight in weights.items():
                weight.copy_(before[name])
        found = from_first_process(torch.stack(losses))
        table = ", ".join(f"{damp:.3g}: {loss:.4g}" for damp, loss in zip(damps, found.tolist(), strict=True))
        logger.info(f"OBSPruningModifier: divergence of the outputs for each damp: {table}")
        return damps[int(found.argmin())]

    def _outputs(self, batches: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Logits of each batch, by name, in evaluation mode."""
        model, was_training = self._model, self._model.training
        model.eval()
        with torch.no_grad():
            # The class's forward, without Accelerate's autocast, as for the gradients.
            results = [type(model).forward(model, **batch) for batch in batches]
        model.train(was_training)
        masks = [batch.get("attention_mask") for batch in batches]
        return [distributions(result, mask) for result, mask in zip(results, masks, strict=True)]

    def state_dict(self) -> dict[str, Tensor]:
        found = {} if self._damp in (None, self.damp) else {"damp": torch.tensor(self._damp, dtype=torch.float64)}
        return super().state_dict() | found

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        super().load_state_dict(state)
        if "damp" in state:
            self._damp = state["damp"].item()

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        found = {} if self._damp in (None, self.damp) else {"damp": self._damp}
        return super().metrics(now) | found


def _inverses(matrices: Mapping[str, Tensor], damp: float) -> dict[str, Tensor]:
    return {name: fisher.inverse_with_damp(matrix, damp) for name, matrix in matrices.items()}


def _auto_damps(matrices: Mapping[str, Tensor], num_weights: int) -> list[float]:
    """Multiples of the mean square of a weight's gradients."""
    mean = sum(float(matrix.diagonal(dim1=1, dim2=2).sum()) for matrix in matrices.values()) / num_weights
    if not 0 < mean < math.inf:
        raise ValueError(f"damp: auto needs gradients that are finite and not all 0, got a mean square of {mean:g}")
    return [factor * mean for factor in AUTO_DAMPS]
