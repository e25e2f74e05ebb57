"""A plan as a recipe."""

import json
from collections.abc import Sequence
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
  - !ReconstructionPruningModifier  # {pattern}
    params: []
    init_sparsity: {init}
    final_sparsity:
{groups}
    start_epoch: 0.0
    end_epoch: {end}
    update_frequency: {frequency}
    mask_type: {mask_type}
    reference: {reference}
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
    pruning += _pruning(plan, frame.pruning_end, num_samples) if plan.is_sparse else []
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


def _pruning(plan: Plan, end: float, num_samples: int) -> list[str]:
    """One modifier for each pattern, with a group for each sparsity.

    In one shot the second modifier meets a model that the first one has pruned: both fit the layers to the dense model,
    unless layers are dropped, without which the outputs of the dense model cannot be reached.
    """
    patterns = {choice.option.pattern for choice in plan.choices} - {DENSE}
    from_teacher = len(patterns) > 1 and not end and not plan.dropped
    texts = []
    for pattern in sorted(patterns):
        groups: dict[float, list[str]] = {}
        for choice in plan.choices:
            if choice.option.pattern == pattern:
                groups.setdefault(choice.option.sparsity, []).extend(choice.unit.weights)
        lines = [
            line
            for sparsity in sorted(groups)
            for line in [f"      {sparsity:g}:", *(f"        - {name}" for name in groups[sparsity])]
        ]
        texts.append(
            _PRUNING.format(
                pattern=pattern,
                init=START if end else 0.0,
                groups="\n".join(lines),
                end=f"{end:g}",
                frequency=f"{end / 4 or 1.0:g}",
                mask_type=json.dumps(MASK_TYPES[pattern]),
                reference="teacher" if from_teacher else "self",
                num_samples=num_samples,
            )
        )
    return texts
