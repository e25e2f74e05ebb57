"""Recipes for the check, and what it warns of."""

from pathlib import Path

from sparsification.check.report import check

RUN = "  - !EpochRangeModifier {end_epoch: 10.0}\n"
PRUNING = r"""  - !GMPruningModifier
    params: ['re:.*(query|key)\.weight']
    init_sparsity: 0.0
    final_sparsity: 0.8
    start_epoch: 2.0
    end_epoch: 6.0
"""
QUANTIZATION = "  - !QuantizationModifier {start_epoch: 7.0, disable_quantization_observer_epoch: 8.0}\n"
DECAY = (
    "  - !LearningRateFunctionModifier "
    "{lr_func: linear, init_lr: 3.0e-5, final_lr: 0.0, start_epoch: 0.0, end_epoch: %s}\n"
)
AVERAGE = "  - !WeightAveragingModifier {start_epoch: %s}\n"
SOUND = RUN + PRUNING + QUANTIZATION + DECAY % 10.0
# Five masks from gradients of 1,024 examples each.
SAMPLED = (
    RUN
    + PRUNING.replace("GMPruning", "OBSPruning")
    + """    update_frequency: 1.0
    num_grads: 256
    grad_sampler_kwargs: {batch_size: 4}
"""
)


def write(folder: Path, modifiers: str, head: str = "") -> str:
    path = folder / "recipe.yaml"
    path.write_text(f"{head}modifiers:\n{modifiers}", encoding="utf-8")
    return str(path)


def warnings_of(folder: Path, modifiers: str, head: str = "", **options) -> list[str]:
    return check(write(folder, modifiers, head), **options)[1]
