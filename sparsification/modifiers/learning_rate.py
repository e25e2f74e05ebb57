"""What is the learning rate at this step?

Every learning rate is a pure function of the step. Before the first window the optimizer's own holds; where several
modifiers name one parameter group, the one that started last decides.
"""

from dataclasses import dataclass, field
from typing import Literal

import torch

from sparsification import schedules
from sparsification.fields import show
from sparsification.modifiers.base import MAX_EPOCHS, MIN_FREQUENCY, Clock, Modifier

MAX_STEPS = 10_000  # so far a scheduler of torch is followed: each step takes time, and a recipe can name any epoch
MAX_RATE = 1000.0
_LR_KWARGS = {  # of torch's schedulers: least and most; times in epochs
    "step_size": (1, MAX_STEPS),
    "milestones": (0, MAX_STEPS),
    "gamma": (0, 10),
    "T_max": (1, MAX_STEPS),
    "T_0": (1, MAX_STEPS),
    "T_mult": (1, MAX_STEPS),
    "eta_min": (0, MAX_RATE),
}


@dataclass(kw_only=True)
class LearningRateBase(Modifier):
    """What sets the learning rate of some parameter groups."""

    param_groups: list[int] | None = None  # indices of the optimizer's groups; None: all of them
    constant_logging: bool = False  # accepted for SparseML's sake: every log line has the learning rate anyway

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("learning_rate", "init_lr", "final_lr"):
            rate = vars(self).get(key, 0.0)
            if not 0 <= rate <= MAX_RATE:
                raise ValueError(f"{key} {rate:g} is no learning rate, from 0 to {MAX_RATE:g}")

    def lr_at(self, clock: Clock) -> float:
        """Learning rate of a step that is not before the window's start."""
        raise NotImplementedError

    def scalars(self, clock: Clock) -> dict[str, float]:
        if clock.step < clock.step_at(self.window[0]):
            return {}
        return {f"ParamGroup{group}": self.lr_at(clock) for group in self.param_groups or [0]}


@dataclass(kw_only=True)
class SetLearningRateModifier(LearningRateBase):
    """Set the learning rate once, at ``start_epoch``."""

    learning_rate: float

    def lr_at(self, clock: Clock) -> float:
        return self.learning_rate


@dataclass(kw_only=True)
class LearningRateFunctionModifier(LearningRateBase):
    """Lead the learning rate along a curve from ``init_lr`` at ``start_epoch`` to ``final_lr`` at ``end_epoch``.

    After the end ``linear`` and ``cosine`` hold ``final_lr``; ``cyclic_linear`` holds ``init_lr``, as in SparseML.
    Where the window is no multiple of the cycles, the last one is shorter, and still reaches ``final_lr``.
    """

    lr_func: Literal["linear", "cosine", "cyclic_linear"]
    init_lr: float
    final_lr: float
    cycle_epochs: float = 1.0  # length of a cycle of cyclic_linear

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_epoch == -1:
            raise ValueError("a learning-rate curve needs an end_epoch")
        if self.lr_func == "cyclic_linear" and not MIN_FREQUENCY <= self.cycle_epochs <= MAX_EPOCHS:
            raise ValueError(f"cycle_epochs is {self.cycle_epochs:g}; a cycle takes more than 0 epochs")

    def lr_at(self, clock: Clock) -> float:
        start, end = self.window
        if self.lr_func == "cyclic_linear":
            if clock.step >= clock.step_at(end):
                return self.init_lr
            steps_per_cycle = max(round(self.cycle_epochs * clock.steps_per_epoch), 1)
            steps, window = clock.step - clock.step_at(start), clock.step_at(end) - clock.step_at(start)
            shorter = window % steps_per_cycle
            if steps >= window - shorter:
                steps, steps_per_cycle = steps - (window - shorter), shorter
            return schedules.cyclic_linear_lr(steps, steps_per_cycle, self.init_lr, self.final_lr)
        curve = schedules.linear_lr if self.lr_func == "linear" else schedules.cosine_lr
        return curve(schedules.progress(clock.epoch, start, end), self.init_lr, self.final_lr)


@dataclass(kw_only=True)
class LearningRateModifier(LearningRateBase):
    """Let a scheduler of ``torch.optim.lr_scheduler`` set the learning rate, one of its steps an epoch.

    From epoch ``MAX_STEPS`` of its window on the rate stays as it is.
    """

    lr_class: Literal["StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts"]
    init_lr: float
    lr_kwargs: dict[str, object] = field(default_factory=dict)  # times in epochs, e.g. {step_size: 2, gamma: 0.1}

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, value in self.lr_kwargs.items():
            self._check(key, value)
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=self.init_lr)
        try:
            self._scheduler = getattr(torch.optim.lr_scheduler, self.lr_class)(optimizer, **self.lr_kwargs)
        except (TypeError, ValueError) as error:
            raise ValueError(f"lr_kwargs do not fit {self.lr_class}: {error}") from error
        optimizer.step()  # torch expects one before its schedulers move
        self._by_epoch = [self.init_lr]

    @staticmethod
    def _check(key: str, value: object) -> None:
        """Raise ValueError for what torch's schedulers would stumble over later."""
        if key not in _LR_KWARGS:
            raise ValueError(f"lr_kwargs has no key '{key}', only {', '.join(_LR_KWARGS)}")
        low, high = _LR_KWARGS[key]
        numbers = value if key == "milestones" and isinstance(value, list) else [value]
        if len(numbers) > 100 or not all(type(number) in (int, float) and low <= number <= high for number in numbers):
            what = "a list of at most 100 numbers" if key == "milestones" else "a number"
            raise ValueError(f"lr_kwargs: {key} {show(value)} is not {what} from {low:g} to {high:g}")

    def lr_at(self, clock: Clock) -> float:
        start, end = self.window
        epochs = int(min(clock.epoch - start, end - start, MAX_STEPS) + 1e-6)
        while len(self._by_epoch) <= epochs:
            self._scheduler.step()
            self._by_epoch.append(self._scheduler.get_last_lr()[0])
        return self._by_epoch[epochs]
