"""Second-order pruning with the inverse Fisher matrix in blocks (oBERT)."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sparsification.pruning import fisher, masks
from sparsification.pruning.gradient_sampling import GradientSampledPruning, from_first_process
from sparsification.targets import Targets


@dataclass(kw_only=True)
class OBSPruningModifier(GradientSampledPruning):
    """Prune the weights with the smallest second-order increase of the loss, and update the others (oBERT).

    Kurtic et al. 2022, arXiv:2203.07259. Before each new mask the inverse Fisher matrix is estimated from ``num_grads``
    gradients of the task loss, in evaluation mode and fp32, in blocks of ``fisher_block_size`` consecutive weights. It
    takes 4 bytes x weights x block size while masks are computed: 17 GB for BERT-base's encoder with the paper's blocks
    of 50, 0.3 GB with blocks of 1, which ignore interactions between weights. Pruned weights do not come back.
    """

    global_sparsity: bool = True
    num_grads: int = 1024  # batches from which the Fisher matrix is estimated
    damp: float = 1e-7  # added to the diagonal of the Fisher matrix
    fisher_block_size: int = 1  # 50 in the paper, 32 for block4
    num_recomputations: int = 1  # estimates, each with a mask, between one sparsity and the next

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("num_grads", "fisher_block_size", "num_recomputations"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key} must be at least 1, got {getattr(self, key)}")
        if self.damp <= 0:
            raise ValueError(f"damp must be greater than 0 for the Fisher matrix to have an inverse, got {self.damp:g}")
        pattern = masks.parse_mask_type(self.mask_type)
        if isinstance(pattern, tuple) and pattern[0] > 1:
            raise ValueError(f"mask_type must have blocks within one row, [1, n], got {self.mask_type}")
        self._group = 4 if pattern == "block4" else pattern[1] if isinstance(pattern, tuple) else 1
        if self.fisher_block_size % self._group:
            raise ValueError(
                f"fisher_block_size must be a multiple of {self._group} with mask_type {self.mask_type}, e.g. "
                f"{8 * self._group}, got {self.fisher_block_size}"
            )

    def initialize(self, targets: Targets) -> None:
        super().initialize(targets)
        for name, weight in self.masked.weights.items():
            if weight.dim() > 2 and self._group > 1:
                raise ValueError(f"{name}: blocks need a matrix here, got a weight of shape {tuple(weight.shape)}")
            if weight.shape[-1] % self._group:
                raise ValueError(f"{name}: blocks of {self._group} do not tile rows of {weight.shape[-1]}")

    def compute_masks(self, targets: Mapping[str, float], step: int, progress: float) -> dict[str, Tensor]:
        before = self._target_sparsity or dict.fromkeys(targets, 0.0)
        for part in range(1, self.num_recomputations):
            share = part / self.num_recomputations
            between = {name: before[name] + (target - before[name]) * share for name, target in targets.items()}
            self._apply_masks(self._prune_once(between, (step, part)))
        return self._prune_once(targets, (step, self.num_recomputations))

    def _prune_once(self, targets: Mapping[str, float], moment: tuple[int, int]) -> dict[str, Tensor]:
        """Compute masks from a new estimate, and move the weights that stay."""
        inverses = self._estimate(moment)

        def score(name: str) -> Tensor:
            weight = self.masked.weights[name].detach().float()
            return from_first_process(fisher.saliency(weight, inverses[name], self._group))

        keeps = self.masks_by_score(score, targets)
        for name, keep in keeps.items():
            weight = self.masked.weights[name].detach()
            weight += fisher.obs_update(weight, inverses[name], keep, self._group)
            from_first_process(weight)
        return keeps

    def _estimate(self, moment: tuple[int, int]) -> dict[str, Tensor]:
        """Build the inverse Fisher matrix of each weight."""
        inverses = {
            name: fisher.damped_inverse(weight.numel(), self.fisher_block_size, self.damp, weight.device)
            for name, weight in self.masked.weights.items()
        }
        for gradients in self._gradients(self.num_grads, moment):
            for name, gradient in gradients.items():
                fisher.add_gradient_(inverses[name], self.masked.apply(name, gradient), self.num_grads)
        for name, inverse in inverses.items():
            if not inverse.diagonal(dim1=1, dim2=2).isfinite().all():
                raise ValueError(
                    f"{name}: the inverse Fisher matrix is not finite: either the gradients are not (is the loss nan?) "
                    f"or they are too large for damp {self.damp:g}"
                )
        return inverses
