"""Base of the techniques that prune the weights with the lowest scores, in a pattern and a ranking of choice."""

from collections.abc import Callable, Mapping

from torch import Tensor

from sparsification.pruning import global_ranking, masks
from sparsification.pruning.masks import MaskType
from sparsification.pruning.scheduled import ScheduledPruning
from sparsification.targets import Targets


class RankedPruning(ScheduledPruning):
    """Scheduled pruning by scores: ``compute_masks`` returns ``masks_by_score`` of a score that the technique defines.

    Annotates recipe keys as ``ScheduledPruning`` does.
    """

    mask_type: MaskType
    global_sparsity: bool  # one ranking over all weights instead of one for each
    max_sparsity: float  # bound for each weight in a global ranking, e.g. 0.95; the others are pruned more instead

    def __post_init__(self) -> None:
        super().__post_init__()
        pattern = masks.parse_mask_type(self.mask_type)
        if self.global_sparsity and isinstance(pattern, str) and ":" in pattern:
            raise ValueError(f"mask_type '{pattern}' has a sparsity of its own: it needs global_sparsity False")
        if self.global_sparsity and len(self.groups()) > 1:
            raise ValueError("global_sparsity needs one final_sparsity for all params, not one for each group")
        if not 0 < self.max_sparsity <= 1:
            raise ValueError(f"max_sparsity must be in (0, 1], got {self.max_sparsity:g}")
        if self.max_sparsity < 1 and not self.global_sparsity:
            raise ValueError(f"max_sparsity {self.max_sparsity:g} needs global_sparsity True")

    def initialize(self, targets: Targets) -> None:
        super().initialize(targets)
        if self.max_sparsity < 1:
            shapes = [weight.shape for weight in self.masked.weights.values()]
            for sparsities in (self._init, self._final):
                global_ranking.check_max_sparsity(shapes, self._mean(sparsities), self.mask_type, self.max_sparsity)

    def masks_by_score(self, score: Callable[[str], Tensor], targets: Mapping[str, float]) -> dict[str, Tensor]:
        """Compute the masks that keep the highest scores, in the pattern and the ranking of the recipe.

        Args:
            score: takes the name of a weight and returns the importance of its members, shaped like it. Called once
                for each weight.
            targets: sparsity in [0, 1] by the name of the weight.

        Returns:
            Bool masks by name, shaped like the weights, False where pruned.
        """
        if self.global_sparsity:
            scores = [score(name) for name in targets]
            keeps = global_ranking.global_masks(scores, self._mean(targets), self.mask_type, self.max_sparsity)
            return dict(zip(targets, keeps, strict=True))
        return {name: masks.compute_mask(score(name), target, self.mask_type) for name, target in targets.items()}

    def magnitude(self, name: str) -> Tensor:
        """The score of magnitude pruning: absolute values, shaped like the weight."""
        return self.masked.weights[name].detach().abs()
