"""A plan as a recipe."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sparsification.plan.model_files import dropping, quantization
from sparsification.plan.planner import Plan
from sparsification.plan.units import DENSE, MASK_TYPES

_RUN = """\
training_modifiers:
  - !EpochRangeModifier
    start_epoch: 0.0
    end_epoch: {end}
"""
_PRUNING = """\
  - !ReconstructionPruningModifier
    params: []
    init_sparsity: {init}
    final_sparsity:
{sparsities}
    start_epoch: 0.0
    end_epoch: {end}
    update_frequency: {frequency}
    mask_type:{patterns}
    num_samples: {num_samples}
"""
_RATE = """\
  - !LearningRateFunctionModifier
    lr_func: linear
    start_epoch: {:g}
    end_epoch: {:g}
    init_lr: {:g}
    final_lr: {:g}
"""
_DISTILLATION = """
distillation_modifiers:
  - !DistillationModifier
    hardness: 1.0
    temperature: 2.0
    ignore_padding: true
  - !PerLayerDistillationModifier
    gain: 1.0
    student_layer_names: [__ENCODER__]
    ignore_padding: true
"""
SAMPLES = 128  # calibration examples
START = 0.5  # sparsity of the first mask of a training


def write_recipe(plan: Plan, comments: Sequence[str] = (), epochs: float = 0.0, num_samples: int = SAMPLES) -> str:
    """Write a plan as a recipe.

    Args:
        plan: the plan.
        comments: lines at its start.
        epochs: of training with distillation, by the schedule of ``recipes/minilm-6layers_prune_quant80.md``; 0: to
            be applied in one shot.
        num_samples: calibration examples for each mask.
    """
    frame = Frame(plan.precision == "int8", epochs)
    pruning = [dropping(plan.dropped)] if plan.dropped else []
    pruning += [_pruning(plan, frame.pruning_end, num_samples)] if plan.is_sparse else []
    return frame.text(comments, pruning)


@dataclass(frozen=True)
class Frame:
    """What the recipes of all plans have around their pruning."""

    int8: bool
    epochs: float  # of training; 0: in one shot

    @property
    def trained(self) -> float:
        """Epochs before quantization-aware training, which is the rest."""
        return self.epochs * (0.75 if self.int8 else 1.0)

    @property
    def pruning_end(self) -> float:
        """Epoch of the last mask."""
        return 0.3 * self.trained

    def text(self, comments: Sequence[str], pruning: Sequence[str]) -> str:
        """Write the recipe.

        Args:
            comments: lines at its start.
            pruning: modifiers.
        """
        parts = ["".join(f"# {line}".rstrip() + "\n" for line in comments), _RUN.format(end=self.epochs or 1.0)]
        if self.epochs:
            warm = self.trained / 10
            parts += [_RATE.format(0.0, warm, 0.0, 5e-4), _RATE.format(warm, self.trained, 5e-4, 0.0)]
            parts += [_RATE.format(self.trained, self.epochs, 5e-5, 0.0)] if self.int8 else []
        parts += ["\npruning_modifiers:\n", *pruning] if pruning else []
        if self.int8:
            frozen = self.epochs * 7 / 8 if self.epochs else 0.5
            parts.append(f"\nquantization_modifiers:\n{quantization(self.trained, frozen)}")
        return "".join([*parts, _DISTILLATION if self.epochs else ""])


def _pruning(plan: Plan, end: float, num_samples: int) -> str:
    """The modifier of all weights, with a group for each sparsity and for each pattern."""
    sparse = [choice for choice in plan.choices if choice.option.pattern != DENSE]
    patterns = [(MASK_TYPES[choice.option.pattern], choice.unit.weights) for choice in sparse]
    is_mixed = len({pattern for pattern, _ in patterns}) > 1
    return _PRUNING.format(
        init=START if end else 0.0,
        sparsities=_groups((f"{choice.option.sparsity:g}", choice.unit.weights) for choice in sparse),
        end=f"{end:g}",
        frequency=f"{end / 4 or 1.0:g}",
        patterns=f"\n{_groups(patterns)}" if is_mixed else f" {patterns[0][0]}",
        num_samples=num_samples,
    )


def _groups(pairs: Iterable[tuple[str, Sequence[str]]]) -> str:
    """Names of weights below their keys, in the order of the keys."""
    groups: dict[str, list[str]] = {}
    for key, names in pairs:
        groups.setdefault(key, []).extend(names)
    items = "\n        - "
    return "\n".join(f"      {key}:{items}{items.join(groups[key])}" for key in sorted(groups))
