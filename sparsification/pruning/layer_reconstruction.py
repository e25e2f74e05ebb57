"""Prunes the linear layers of a model one after the other on calibration data.

Used by the modifiers that prune by layer-wise reconstruction. They select weights and sparsities; ``layer_walk`` visits
the layers of these weights, and a method of ``reconstruction`` computes the new weights of each.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sparsification.pruning import masks, reconstruction
from sparsification.pruning.allocation import cheapest_sparsities, outlier_sparsities
from sparsification.pruning.gradient_sampling import from_first_process
from sparsification.pruning.layer_walk import Batch, Group, input_norms, walk
from sparsification.pruning.masks import MaskType
from sparsification.pruning.reconstruction import Problem
from sparsification.pruning.sensitivity import TINY, Probe
from sparsification.pruning.sparsity import encoder_layers
from sparsification.samplers import CalibrationSampler

MaskMethod = Literal["alps", "sparsegpt", "wanda", "magnitude", "present"]
# (name of the weight, problem) -> new weights and their bool mask
Solver = Callable[[str, Problem], tuple[Tensor, Tensor]]
STEPS = [-0.15, -0.1, -0.05, 0.0, 0.05, 0.1, 0.15]  # allocation by errors: distances from the total sparsity


class LayerReconstruction:
    """The linear layers that a recipe selects, and the calibration data to prune them with.

    Args:
        model: the model to prune.
        weights: weights of linear layers, by name.

    Raises:
        ValueError: one of them is not that of a linear layer.
    """

    def __init__(self, model: nn.Module, weights: Mapping[str, nn.Parameter]):
        self.model = model
        self.sampler: CalibrationSampler | None = None
        self.teacher: nn.Module | None = None  # its outputs are the targets; None: the model's own outputs
        self.errors: dict[str, float] = {}  # relative error of each layer after the latest reconstruction
        self._weights = dict(weights)
        owners = {id(module.weight): module for module in model.modules() if isinstance(module, nn.Linear)}
        for name, weight in weights.items():
            if id(weight) not in owners:
                raise ValueError(f"{name} is not the weight of a Linear layer: only those can be reconstructed")

    def attach_teacher(self, teacher: nn.Module) -> None:
        """Use the outputs of the layers with the same names in another model as targets.

        Raises:
            ValueError: it has no such layer, or one of another width.
        """
        modules = dict(teacher.named_modules())
        for module_name, name in self._names().items():
            theirs, shape = modules.get(module_name), tuple(self._weights[name].shape)
            if not isinstance(theirs, nn.Linear):
                raise ValueError(f"the teacher has no Linear layer {module_name}")
            if tuple(theirs.weight.shape) != shape:
                raise ValueError(f"the teacher's {module_name} is {tuple(theirs.weight.shape)}, the student's {shape}")
        self.teacher = teacher

    def batches(self, count: int, batch_size: int, step: int) -> Sequence[Batch]:
        """Draw calibration batches for the masks of an optimizer step.

        Raises:
            ValueError: there is no sampler.
        """
        if self.sampler is None:
            raise ValueError("calibration data is needed: call ScheduledModifierManager.set_calibration_sampler")
        return self.sampler(count, batch_size, (step, 1))

    def reconstruct(self, batches: Sequence[Batch], dampening: float, solve: Solver) -> Iterator[tuple[str, Tensor]]:
        """Change the weights of all layers, one after the other.

        Args:
            batches: calibration data.
            dampening: see ``reconstruction.Moments.problem``.
            solve: computes the new weights of a layer.

        Yields:
            The name of each weight and its bool mask.

        Raises:
            ValueError: inputs are not finite, or no forward pass calls a layer.
        """
        self.errors = {}
        for name, problem in self.problems(batches, dampening, self.teacher):
            new, keep = solve(name, problem)
            weight = self._weights[name].detach()
            weight.copy_(from_first_process((new * keep).to(weight.dtype)))
            self.errors[name] = problem.relative_error(weight)
            yield name, from_first_process(keep.to(torch.uint8)).bool()

    def problems(
        self, batches: Sequence[Batch], dampening: float, teacher: nn.Module | None = None
    ) -> Iterator[tuple[str, Problem]]:
        """Build the least-squares problem of each layer, one after the other.

        Args:
            batches: calibration data.
            dampening: see ``reconstruction.Moments.problem``.
            teacher: model whose layer outputs are the targets; None: this model as it is now.

        Yields:
            The name of each weight and its problem. The weight may then be changed.

        Raises:
            ValueError: inputs are not finite, or no forward pass calls a layer.
        """
        names = self._names()
        left = set(names)
        with evaluating(self.model):
            for group in walk(self.model, list(names), batches, teacher):
                for index, module in enumerate(group.names):
                    left.remove(module)
                    yield names[module], self._problem(group, index, names[module], dampening)
        if left:
            raise ValueError(f"{min(left)} is in no forward pass of the calibration data: it cannot be reconstructed")

    def _problem(self, group: Group, index: int, name: str, dampening: float) -> Problem:
        problem = group.moments.problem(index, self._weights[name].detach(), dampening)
        if not (problem.hessian.isfinite().all() and problem.cross.isfinite().all()):
            raise ValueError(f"{name}: inputs or outputs of its layer are not finite on the calibration data")
        return problem

    def _names(self) -> dict[str, str]:
        """Map names of modules to names of weights; looked up each time, because quantization replaces modules."""
        names = {id(weight): name for name, weight in self._weights.items()}
        return {
            module_name: names[id(module.weight)]
            for module_name, module in self.model.named_modules()
            if isinstance(module, nn.Linear) and id(module.weight) in names
        }

    # Allocation

    def by_outliers(
        self, batches: Sequence[Batch], sparsity: float, multiple: float, spread: float
    ) -> dict[str, float]:
        """Allocate a sparsity to encoder layers by their outliers; see ``allocation.outlier_sparsities``.

        An outlier is a product of |w| and the norm of the input above ``multiple`` times the layer's mean. All weights
        of an encoder layer get the same sparsity; a weight outside of the encoder counts as a layer.

        Returns:
            The sparsity of each weight.
        """
        names = self._names()
        with evaluating(self.model):
            norms = input_norms(self.model, list(names), batches)
        layers: dict[str, list[str]] = {}
        for module in norms:
            inside = [layer for layer in encoder_layers(self.model) if module.startswith(f"{layer}.")]
            layers.setdefault(inside[0] if inside else module, []).append(module)
        outliers, sizes = {}, {}
        for layer, modules in layers.items():
            scores = torch.cat([(self._weights[names[m]].detach().abs() * norms[m]).flatten() for m in modules])
            outliers[layer] = float((scores > multiple * scores.mean()).double().mean())
            sizes[layer] = scores.numel()
        found = outlier_sparsities(outliers, sizes, sparsity, spread)
        return {names[module]: found[layer] for layer, modules in layers.items() for module in modules}

    def by_errors(
        self, batches: Sequence[Batch], sparsity: float, mask_type: MaskType, block_size: int, dampening: float
    ) -> dict[str, float]:
        """Allocate a sparsity to weights such that the model's outputs change least.

        The loss of a weight is the relative error of its layer in the dense model, by SparseGPT at seven sparsities,
        times the change of the model's outputs over this error, with this weight alone at the total sparsity; see
        ``sensitivity`` and ``allocation.cheapest_sparsities``. Takes the memory of the weights once more.

        Returns:
            The sparsity of each weight.
        """
        grid = [sparsity + step for step in STEPS if 0 <= sparsity + step < 1]
        errors: dict[str, list[float]] = {}
        pruned: dict[str, Tensor] = {}
        for name, problem in self.problems(batches, dampening):
            found = [reconstruction.sparsegpt(problem, goal, mask_type, block_size)[0] for goal in grid]
            errors[name] = [problem.relative_error(weight) for weight in found]
            pruned[name] = found[grid.index(sparsity)]
        curves = {}
        with evaluating(self.model):
            probe = Probe(self.model, batches)
            for name, weight in pruned.items():
                own = max(errors[name][grid.index(sparsity)], TINY)
                factor = probe.change(self._weights[name], weight) / own
                curves[name] = [(goal, factor * error) for goal, error in zip(grid, errors[name], strict=True)]
        return cheapest_sparsities(curves, {name: self._weights[name].numel() for name in curves}, sparsity)


def solve_layer(
    problem: Problem, sparsity: float, mask_type: MaskType, method: MaskMethod, refit: bool, block_size: int
) -> tuple[Tensor, Tensor]:
    """Choose the mask of one layer and the weights under it.

    Args:
        problem: the layer.
        sparsity: fraction to prune, in [0, 1]; not used by ``present``.
        mask_type: see ``masks.parse_mask_type``.
        method: method that chooses the mask; ``present`` keeps the zeros of the weights.
        refit: whether to solve for the kept weights. Otherwise they are not changed, except by ``sparsegpt``, which
            updates them while it prunes.
        block_size: number of columns for which ``sparsegpt`` chooses the mask at once.

    Returns:
        New weights and their bool mask, (out_features, in_features).
    """
    weight = problem.weight
    if method == "sparsegpt":
        weight, keep = reconstruction.sparsegpt(problem, sparsity, mask_type, block_size)
    elif method == "alps":
        keep = reconstruction.alps_mask(problem, sparsity, mask_type)
    elif method == "wanda":
        keep = reconstruction.wanda_mask(problem, sparsity, mask_type)
    elif method == "magnitude":
        keep = masks.compute_mask(weight.abs(), sparsity, mask_type)
    else:
        keep = weight != 0
    return (reconstruction.refit(problem, keep) if refit else weight), keep


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode, and restore the mode of each module afterwards."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
