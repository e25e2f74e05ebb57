"""Distillation of hidden states: the loss of a layer, and the modifier."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import compress

import torch
from torch import Tensor, nn

from sparsification.base import TrainingStep
from sparsification.distillation.base import DistillationBase
from sparsification.targets import Targets


def feature_loss(student: Tensor, teacher: Tensor, normalize: bool = True, epsilon: float = 1e-6) -> Tensor:
    """Mean squared error between the outputs of two layers.

    Args:
        student: any shape.
        teacher: the same shape.
        normalize: whether to divide by the teacher's mean square, so that layers with large outputs do not dominate.
        epsilon: added to that mean square.

    Returns:
        Scalar.
    """
    student, teacher = student.float(), teacher.float()
    loss = (student - teacher).square().mean()
    return loss / (teacher.square().mean() + epsilon) if normalize else loss


def _layers(targets: Targets, names: list[str] | None) -> dict[str, nn.Module]:
    """Modules by name, dropped ones among them: those that match ``names``, or all Linear layers.

    Raises ValueError where there are none.
    """
    if names is not None:
        return targets.modules(names)
    found: dict[str, nn.Module] = targets.modules_of(nn.Linear, nn.Conv2d, dropped=True)
    if not found:
        raise ValueError("the model has no Linear layer to compare: set student_layer_names")
    return found


def _output_name(layer: str) -> str:
    """Name of a layer's output among the teacher's; has a dot, which those of a model have not."""
    return f"{layer}.hidden_states"


@dataclass(kw_only=True)
class PerLayerDistillationModifier(DistillationBase):
    """Train the student's layers to match the outputs of the teacher's: loss = task + gain · sum over the layers.

    Romero et al. 2015, arXiv:1412.6550; Jiao et al. 2020, arXiv:1909.10351. The loss of a layer is the mean squared
    error. If the widths differ, a matrix maps the student's output to the teacher's width; it is trained along with the
    student by an AdamW optimizer of its own and is not part of the saved model. Layer names are those of the model as
    it was loaded. One list of names applies to both models, in both without the layers that the student has dropped;
    without any, all Linear layers are compared, as in SparseML. As in SparseML, padded positions are part of the loss
    unless ``ignore_padding`` is set. The teacher runs in every step unless ``cache_hidden_states`` is set: then
    ``SparseTrainer`` keeps the outputs of the layers on disk beside the logits, in 16 bits, if they take at most half
    of the free space. Tokens x width x 2 bytes for each layer: a million tokens of width 384 take 0.8 GB.
    """

    gain: float = 1.5  # weight of the sum over the layers
    student_layer_names: list[str] | None = None  # names or "re:" patterns of modules; __ENCODER__: each of its layers
    teacher_layer_names: list[str] | None = None  # the same number of layers, in the same order
    normalize: bool = True  # whether each layer's loss is divided by the teacher's mean square
    epsilon: float = 1e-6  # added to that mean square
    project_features: bool = True  # whether to learn a matrix where the widths differ
    distill_output_keys: list[str | int] | None = None  # SparseML's key, no effect
    teacher_input_keys: list[str] | None = None
    ignore_padding: bool = False
    cache_hidden_states: bool = False  # whether the teacher runs once per example; needs ignore_padding

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon < 0:
            raise ValueError(f"epsilon must be at least 0, got {self.epsilon:g}")
        if self.cache_hidden_states and not self.ignore_padding:
            raise ValueError("ignore_padding must be true with cache_hidden_states: only real tokens are cached")
        self._teacher: dict[str, nn.Module] = {}
        self._features: dict[tuple[str, int], Tensor] = {}  # of the last forward pass, by side and position
        self._projections: dict[str, nn.Parameter] = {}  # by the student's layer, (teacher's width, student's width)
        self._optimizer: torch.optim.Optimizer | None = None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._sum: Tensor | float = 0.0  # of the losses, over the last ``_count`` batches
        self._count = 0

    @property
    def needs_teacher(self) -> bool:
        return self.gain != 0

    @property
    def cached_layers(self) -> Mapping[str, nn.Module] | None:
        if self.needs_teacher and not self.cache_hidden_states:
            return None
        return {_output_name(name): layer for name, layer in self._teacher.items() if self.needs_teacher}

    def warnings(self, length: float | None) -> Iterator[str]:
        if not self.needs_teacher:
            yield "gain is 0: the loss of the layers has no effect, and the teacher does not run for it"

    def initialize(self, targets: Targets) -> None:
        found = _layers(targets, self.student_layer_names or self.teacher_layer_names)
        left = targets.left()
        self._is_left = [module in left for module in found.values()]
        self._student = dict(compress(found.items(), self._is_left))
        self._record("student", targets.model, list(self._student.values()))

    def attach_teacher(self, teacher: nn.Module) -> None:
        """Find the teacher's layers.

        Args:
            teacher: the model whose layers are compared with the student's.

        Raises:
            ValueError: no layer matches, or their number differs from the student's.
        """
        layers = _layers(Targets(teacher), self.teacher_layer_names or self.student_layer_names)
        if len(layers) == len(self._is_left):
            layers = dict(compress(layers.items(), self._is_left))
        if len(layers) != len(self._student):
            raise ValueError(
                f"student and teacher must have the same number of layers to compare, got {len(self._student)} of the "
                f"student ({', '.join(self._student)}) and {len(layers)} of the teacher ({', '.join(layers)})"
            )
        self._teacher = layers
        self._record("teacher", teacher, list(layers.values()))

    def _record(self, side: str, model: nn.Module, layers: list[nn.Module]) -> None:
        """Keep the output of each layer at every forward pass; of the student in training mode only."""
        for position, layer in enumerate(layers):

            def keep(module, args, output, position=position):
                if side == "teacher" or model.training:
                    self._features[side, position] = output if isinstance(output, Tensor) else output[0]

            self._hooks.append(layer.register_forward_hook(keep))

    def loss_term(
        self,
        task_loss: Tensor,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute gain · the sum of the layers' losses, from cached outputs or those of the latest forward passes.

        Args:
            task_loss: scalar; only its device is used.
            student: unused, outputs by name.
            teacher: the teacher's outputs by name; those of its layers are taken from here where present.
            attention_mask: (batch, positions), 0 where padded; None: no padding.

        Returns:
            Scalar, to be added to the task loss.

        Raises:
            ValueError: a layer did not run, or widths differ and ``project_features`` is false.
        """
        distilled = torch.zeros((), device=task_loss.device)
        for position, name in enumerate(self._teacher):
            if _output_name(name) in teacher:
                self._features["teacher", position] = teacher[_output_name(name)]
        for position, name in enumerate(self._student):
            for side in ("student", "teacher"):
                if (side, position) not in self._features:
                    raise ValueError(f"the {side} did not run the layer that is compared with {name}: is it dropped?")
            own, target = self._features["student", position], self._features["teacher", position]
            own = self._project(name, own, target)
            if self.ignore_padding and attention_mask is not None and own.shape[:-1] == attention_mask.shape:
                own, target = own[attention_mask.bool()], target[attention_mask.bool()]
            distilled = distilled + feature_loss(own, target, self.normalize, self.epsilon)
        self._features.clear()
        self._sum, self._count = self._sum + distilled.detach(), self._count + 1
        return self.gain * distilled

    def _project(self, name: str, own: Tensor, target: Tensor) -> Tensor:
        if own.shape == target.shape:
            return own
        if own.shape[:-1] != target.shape[:-1] or not self.project_features:
            raise ValueError(
                f"{name}: outputs of student and teacher may differ in the last dimension only, and only with "
                f"project_features true; got {tuple(own.shape)} and {tuple(target.shape)}"
            )
        if name not in self._projections:
            generator = torch.Generator().manual_seed(list(self._student).index(name))
            start = torch.randn(target.shape[-1], own.shape[-1], generator=generator) / own.shape[-1] ** 0.5
            self._projections[name] = nn.Parameter(start.to(own.device))
            self._optimizer = None
        return nn.functional.linear(own.float(), self._projections[name])

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        """Take an optimizer step for the projections, at the student's learning rate."""
        self._features.clear()  # those of steps that are not active
        gradients = [matrix.grad for matrix in self._projections.values() if matrix.grad is not None]
        if not gradients:
            return
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            for gradient in gradients:
                torch.distributed.all_reduce(gradient)
                gradient /= torch.distributed.get_world_size()
        if self._optimizer is None:
            self._optimizer = torch.optim.AdamW(self._projections.values(), weight_decay=0.0)
        self._optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"]
        if all(gradient.isfinite().all() for gradient in gradients):
            self._optimizer.step()
        self._optimizer.zero_grad()

    def finalize(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._features.clear()

    def state_dict(self) -> dict[str, Tensor]:
        """The projections and the state of their optimizer."""
        state = {}
        for name, matrix in self._projections.items():
            state[f"{name}.weight"] = matrix.detach()
            moments = self._optimizer.state.get(matrix, {}) if self._optimizer else {}
            state |= {f"{name}.{moment}": value for moment, value in moments.items()}
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        device = next((param.device for layer in self._student.values() for param in layer.parameters()), None)
        for name in self._student:
            if f"{name}.weight" in state:
                self._projections[name] = nn.Parameter(state[f"{name}.weight"].to(device))
        if self._projections:
            self._optimizer = torch.optim.AdamW(self._projections.values(), weight_decay=0.0)
            for name, matrix in self._projections.items():
                moments = ("step", "exp_avg", "exp_avg_sq")
                kept = {moment: state[f"{name}.{moment}"] for moment in moments if f"{name}.{moment}" in state}
                if kept:
                    self._optimizer.state[matrix] = {
                        moment: value if moment == "step" else value.to(device) for moment, value in kept.items()
                    }

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        """The mean over the batches since the previous call."""
        if not self._count:
            return {}
        mean = float(self._sum) / self._count
        self._sum, self._count = 0.0, 0
        return {"distillation_loss": mean}
