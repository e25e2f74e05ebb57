"""What does a student learn from its teacher's hidden states?"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsification.base import Modifier, TrainingStep
from sparsification.targets import Targets


def feature_loss(student: Tensor, teacher: Tensor, normalize: bool = True, epsilon: float = 1e-6) -> Tensor:
    """Mean squared difference of two layers' outputs.

    Args:
        student: any shape.
        teacher: the same shape.
        normalize: whether to divide by the teacher's mean square, so that layers with large outputs do not rule.
        epsilon: keeps that division from one by zero.

    Returns:
        Scalar.
    """
    student, teacher = student.float(), teacher.float()
    loss = (student - teacher).square().mean()
    return loss / (teacher.square().mean() + epsilon) if normalize else loss


def _layers(targets: Targets, names: list[str] | None) -> dict[str, nn.Module]:
    """The modules of these names and patterns, or all Linear layers; ValueError where there are none."""
    if names is None:
        found = targets.modules_of(nn.Linear, nn.Conv2d)
        if not found:
            raise ValueError("the model has no Linear layer to compare: name its layers in student_layer_names")
        return found
    return targets.modules(names)


@dataclass(kw_only=True)
class PerLayerDistillationModifier(Modifier):
    """Pull the outputs of the student's layers towards those of the teacher's: task + gain x sum over the layers.

    Romero et al. 2015, arXiv:1412.6550; Jiao et al. 2020, arXiv:1909.10351. The loss of a layer is the mean squared
    difference. Where widths differ, the student's output goes through a matrix first, which learns with the student by
    an AdamW of its own and is no part of the saved model. Layers keep the names of the model as it was loaded. With
    one list of names both models' layers have them, with none all Linear layers are compared, as in SparseML. The
    teacher is asked in every step: logits that were kept on disk have no layers.
    """

    gain: float = 1.5  # weight of the layers' loss
    student_layer_names: list[str] | None = None  # names or "re:" patterns of modules, e.g. __ENCODER__.1
    teacher_layer_names: list[str] | None = None  # the same number of them, in the same order
    normalize: bool = True  # whether each layer's loss is divided by the teacher's mean square
    epsilon: float = 1e-6  # added to that mean square
    project_features: bool = True  # whether a matrix learns to bridge widths that differ
    distill_output_keys: list[str | int] | None = None  # accepted for SparseML's sake, without effect
    teacher_input_keys: list[str] | None = None  # None: all inputs of the student but the labels
    ignore_padding: bool = False  # whether to compare real tokens only; False: SparseML's loss

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.epsilon < 0:
            raise ValueError(f"epsilon {self.epsilon:g} is below 0")
        self._features: dict[tuple[str, int], Tensor] = {}  # of the last forward pass, by side and position
        self._projections: dict[str, nn.Parameter] = {}  # by the student's layer, (teacher's width, student's width)
        self._optimizer: torch.optim.Optimizer | None = None
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self._sum, self._count = 0.0, 0

    @property
    def needs_teacher(self) -> bool:
        return self.gain != 0

    @property
    def compares_layers(self) -> bool:
        return self.needs_teacher

    @property
    def teacher_inputs(self) -> list[str] | None:
        return self.teacher_input_keys

    def is_active(self, now: TrainingStep) -> bool:
        """Whether to distill at this step; the one at ``end_epoch`` is the last."""
        start, end = self.active_range
        return self.needs_teacher and now.step_at(start) <= now.step <= now.step_at(end)

    def warnings(self, length: float | None) -> Iterator[str]:
        if not self.needs_teacher:
            yield "gain 0: its term counts nothing, and the teacher is never asked for it"

    def initialize(self, targets: Targets) -> None:
        self._student = _layers(targets, self.student_layer_names or self.teacher_layer_names)
        self._listen("student", targets.model, list(self._student.values()))

    def attach_teacher(self, teacher: nn.Module) -> None:
        """Find the teacher's layers.

        Raises:
            ValueError: they are not there, or not as many as the student's.
        """
        layers = _layers(Targets(teacher), self.teacher_layer_names or self.student_layer_names)
        if len(layers) != len(self._student):
            raise ValueError(
                f"{len(self._student)} layers of the student ({', '.join(self._student)}) are compared with "
                f"{len(layers)} of the teacher ({', '.join(layers)})"
            )
        self._listen("teacher", teacher, list(layers.values()))

    def _listen(self, side: str, model: nn.Module, layers: list[nn.Module]) -> None:
        for position, layer in enumerate(layers):

            def keep(module, args, output, position=position):
                if side == "teacher" or model.training:
                    self._features[side, position] = output if isinstance(output, Tensor) else output[0]

            self._hooks.append(layer.register_forward_hook(keep))

    def preview(self) -> None:
        self.start_epoch = self.end_epoch = -1.0

    def loss_term(
        self,
        task_loss: Tensor,
        student: Mapping[str, Tensor],
        teacher: Mapping[str, Tensor],
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Compute gain · the sum of the layers' losses of the forward passes just done.

        Args:
            task_loss: scalar.
            student: unused, outputs by name.
            teacher: unused, the teacher's outputs by name.
            attention_mask: (batch, positions), 0 where padded; None: nothing is.

        Returns:
            Scalar, to be added to the task loss.

        Raises:
            ValueError: a layer was not asked, or widths differ and ``project_features`` is off.
        """
        distilled = torch.zeros((), device=task_loss.device)
        for position, name in enumerate(self._student):
            for side in ("student", "teacher"):
                if (side, position) not in self._features:
                    raise ValueError(f"the {side} did not run its layer for {name}: is it dropped?")
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
                f"{name} gives {tuple(own.shape)}, the teacher's layer {tuple(target.shape)}; project_features bridges "
                "only different widths, where it is on"
            )
        if name not in self._projections:
            generator = torch.Generator().manual_seed(list(self._student).index(name))
            start = torch.randn(target.shape[-1], own.shape[-1], generator=generator) / own.shape[-1] ** 0.5
            self._projections[name] = nn.Parameter(start.to(own.device))
            self._optimizer = None
        return nn.functional.linear(own.float(), self._projections[name])

    def update(self, now: TrainingStep, optimizer: torch.optim.Optimizer) -> None:
        """Let the projections learn, at the student's learning rate."""
        self._features.clear()  # those outside of the window
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
        """The projections and what their optimizer remembers."""
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
        """The mean over the batches since the last call."""
        if not self._count:
            return {}
        mean = float(self._sum) / self._count
        self._sum, self._count = 0.0, 0
        return {"distillation_loss": mean}
