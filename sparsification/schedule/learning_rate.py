"""Learning rates as pure functions of the step.

Before the first modifier starts, the optimizer's own learning rate is used. If several modifiers set the rate of one
parameter group, the one that started last counts.
"""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from sparsification.base import MAX_EPOCHS, MIN_FREQUENCY, Modifier, TrainingStep
from sparsification.recipe.types import show
from sparsification.schedule import curves

MAX_RATE = 1000.0
_LR_CLASSES: dict[str, tuple[tuple[str, ...], dict[str, float]]] = {  # required keys; optional keys and their defaults
    "StepLR": (("step_size",), {"gamma": 0.1}),
    "MultiStepLR": (("milestones",), {"gamma": 0.1}),
    "ExponentialLR": (("gamma",), {}),
    "CosineAnnealingLR": (("T_max",), {"eta_min": 0.0}),
    "CosineAnnealingWarmRestarts": (("T_0",), {"T_mult": 1, "eta_min": 0.0}),
}
_SPARSEML_KEYS = {"cycle_epochs": "T_0", "lr_min": "eta_min"}  # SparseML's names of torch's keys
_LR_KWARGS = {  # minimum and maximum; times in epochs
    "step_size": (MIN_FREQUENCY, MAX_EPOCHS),
    "milestones": (0, MAX_EPOCHS),
    "gamma": (0, 10),
    "T_max": (1, MAX_EPOCHS),
    "T_0": (MIN_FREQUENCY, MAX_EPOCHS),
    "T_mult": (1, MAX_EPOCHS),
    "eta_min": (0, MAX_RATE),
}


@dataclass(kw_only=True)
class LearningRateBase(Modifier):
    """Base of modifiers that set the learning rate of parameter groups."""

    param_groups: list[int] | None = None  # indices of the optimizer's parameter groups; None: all
    constant_logging: bool = False  # no effect: the learning rate is always logged

    sets_learning_rate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.param_groups = self.param_groups or None  # in SparseML [] also means all groups
        for key in ("learning_rate", "init_lr", "final_lr"):
            rate = vars(self).get(key, 0.0)
            if not 0 <= rate <= MAX_RATE:
                raise ValueError(f"{key} must be a learning rate in [0, {MAX_RATE:g}], got {rate:g}")

    @property
    def lr_groups(self) -> list[int] | None:
        return self.param_groups

    def lr_at(self, now: TrainingStep, group: int = 0) -> float | None:
        chosen = self.param_groups is None or group in self.param_groups
        return self._rate_at(now) if chosen and now.step >= now.step_at(self.active_range[0]) else None

    def _rate_at(self, now: TrainingStep) -> float:
        """Return the learning rate of a step at or after the start."""
        raise NotImplementedError

    def metrics(self, now: TrainingStep) -> dict[str, float]:
        if now.step < now.step_at(self.active_range[0]):
            return {}
        return {f"ParamGroup{group}": self._rate_at(now) for group in self.param_groups or [0]}


@dataclass(kw_only=True)
class SetLearningRateModifier(LearningRateBase):
    """Set the learning rate once, at ``start_epoch``."""

    learning_rate: float

    acts_at_start: ClassVar[bool] = True

    def _rate_at(self, now: TrainingStep) -> float:
        return self.learning_rate


@dataclass(kw_only=True)
class LearningRateFunctionModifier(LearningRateBase):
    """Set the learning rate along a curve from ``init_lr`` at ``start_epoch`` to ``final_lr`` at ``end_epoch``.

    After the end, ``linear`` and ``cosine`` keep ``final_lr``; ``cyclic_linear`` keeps ``init_lr``, as in SparseML.
    If the active range is not a multiple of the cycle, the last cycle is shorter and also reaches ``final_lr``.
    """

    lr_func: Literal["linear", "cosine", "cyclic_linear"]
    init_lr: float
    final_lr: float
    cycle_epochs: float = 1.0  # length of a cycle of cyclic_linear, in epochs

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.end_epoch == -1:
            raise ValueError("LearningRateFunctionModifier needs an end_epoch, at which the curve ends")
        if self.lr_func == "cyclic_linear" and not MIN_FREQUENCY <= self.cycle_epochs <= MAX_EPOCHS:
            raise ValueError(f"cycle_epochs must be in [{MIN_FREQUENCY:g}, {MAX_EPOCHS:g}], got {self.cycle_epochs:g}")

    def _rate_at(self, now: TrainingStep) -> float:
        start, end = self.active_range
        if self.lr_func == "cyclic_linear":
            if now.step >= now.step_at(end):
                return self.init_lr
            steps_per_cycle: float = max(round(self.cycle_epochs * now.steps_per_epoch), 1)
            steps, window = now.step - now.step_at(start), now.step_at(end) - now.step_at(start)
            shorter = window % steps_per_cycle
            if steps >= window - shorter:
                steps, steps_per_cycle = steps - (window - shorter), shorter
            return curves.cyclic_linear_lr(steps, steps_per_cycle, self.init_lr, self.final_lr)
        curve = curves.linear_lr if self.lr_func == "linear" else curves.cosine_lr
        return curve(curves.progress(now.epoch, start, end), self.init_lr, self.final_lr)


@dataclass(kw_only=True)
class LearningRateModifier(LearningRateBase):
    """Set the learning rate by a schedule of ``torch.optim.lr_scheduler``, with times in epochs.

    ``step_size`` may be a fraction of an epoch, and ``milestones`` are epochs of the run. The rate of
    ``CosineAnnealingWarmRestarts`` changes at every step, that of ``CosineAnnealingLR`` at every epoch. From
    ``end_epoch`` on the rate is constant.
    """

    lr_class: Literal["StepLR", "MultiStepLR", "ExponentialLR", "CosineAnnealingLR", "CosineAnnealingWarmRestarts"]
    init_lr: float
    lr_kwargs: dict[str, object] = field(default_factory=dict)  # times in epochs, e.g. {step_size: 2, gamma: 0.1}

    def __post_init__(self) -> None:
        super().__post_init__()
        required, defaults = _LR_CLASSES[self.lr_class]
        given: dict[str, list[float]] = {}
        for name, value in self.lr_kwargs.items():
            key = _SPARSEML_KEYS.get(name, name)
            if key not in (*required, *defaults):
                raise ValueError(
                    f"lr_kwargs of {self.lr_class} have no key '{name}'; the keys are "
                    f"{', '.join(map(_with_other_name, (*required, *defaults)))}"
                )
            if key in given:
                raise ValueError(f"lr_kwargs: duplicate key {_with_other_name(key)}")
            given[key] = self._checked(name, key, value)
        missing = [_with_other_name(key) for key in required if key not in given]
        if missing:
            raise ValueError(f"lr_kwargs of {self.lr_class} require {missing[0]}")
        self._milestones = given.pop("milestones", [])  # epochs
        self._settings = defaults | {key: number for key, (number,) in given.items()}
        start, end = self.active_range
        for milestone in self._milestones:
            if not start < milestone < end:
                window = f"start_epoch {start:g} and end_epoch {self.end_epoch:g}"
                raise ValueError(f"lr_kwargs: milestones must be epochs between {window}, got {milestone:g}")

    @staticmethod
    def _checked(name: str, key: str, value: object) -> list[float]:
        """Return the numbers of a key; raise ValueError with its name in the recipe if one is out of range."""
        low, high = _LR_KWARGS[key]
        kinds = (int,) if key == "T_mult" else (int, float)
        given = value if key == "milestones" and isinstance(value, list) else [value]
        # Not isinstance alone: True is an int too.
        numbers = [x for x in given if type(x) in kinds and isinstance(x, int | float) and low <= x <= high]
        if (key == "milestones" and given is not value) or len(given) > 100 or len(numbers) < len(given):
            what = "a list of at most 100 numbers" if key == "milestones" else "a number"
            what = "an integer" if key == "T_mult" else what
            raise ValueError(f"lr_kwargs: {name} must be {what} in [{low:g}, {high:g}], got {show(value)}")
        return numbers

    def _rate_at(self, now: TrainingStep) -> float:
        start, end = self.active_range
        first = now.step_at(start)
        step = max(min(now.step, now.step_at(end) - 1), first)  # the last step at which the rate can change
        steps, per_epoch = int(step - first), now.steps_per_epoch
        values = self._settings
        match self.lr_class:
            case "StepLR":
                times = steps // max(round(values["step_size"] * per_epoch), 1)
                return curves.decayed_lr(self.init_lr, values["gamma"], times)
            case "ExponentialLR":
                return curves.decayed_lr(self.init_lr, values["gamma"], steps // per_epoch)
            case "MultiStepLR":
                passed = sum(steps >= round((milestone - start) * per_epoch) for milestone in self._milestones)
                return curves.decayed_lr(self.init_lr, values["gamma"], passed)
            case "CosineAnnealingLR":
                return curves.cosine_lr(steps // per_epoch / values["T_max"], self.init_lr, values["eta_min"])
            case "CosineAnnealingWarmRestarts":
                progress = curves.restarted(step / per_epoch - start, values["T_0"], int(values["T_mult"]))
                return curves.cosine_lr(progress, self.init_lr, values["eta_min"])


def _with_other_name(key: str) -> str:
    return next((f"{other} (or {key})" for other, name in _SPARSEML_KEYS.items() if name == key), key)
