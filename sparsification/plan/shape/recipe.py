"""A smaller shape as a recipe."""

from collections.abc import Sequence

from sparsification.plan.model_files import dropping
from sparsification.plan.recipe import SAMPLES, Frame
from sparsification.plan.shape.encoder import Encoder, Shape

_NEURONS = """\
  - !{modifier}  # {width} of {dense} neurons stay
    params:
{seconds}
    init_sparsity: 0.0
    final_sparsity: {sparsity:.8g}
    start_epoch: 0.0
    end_epoch: {end:g}
    update_frequency: {frequency:g}
    mask_type: channel
{samples}  - !LayerThinningModifier
    structure_type: channel
    param_group_dependency_map:
{groups}
"""


def write_recipe(
    encoder: Encoder,
    shape: Shape,
    int8: bool,
    comments: Sequence[str] = (),
    epochs: float = 0.0,
    modifier: str = "ReconstructionPruningModifier",
    num_samples: int = SAMPLES,
) -> str:
    """Write a shape as a recipe.

    Args:
        encoder: of the dense model.
        shape: what stays.
        int8: whether to quantize.
        comments: lines at its start.
        epochs: of training with distillation; 0: to be applied in one shot.
        modifier: that prunes the neurons.
        num_samples: calibration examples, if it is ReconstructionPruningModifier.
    """
    frame, kept = Frame(int8, epochs), list(encoder.kept(shape))
    pruning = [dropping([encoder.layers[index].name for index in shape.dropped])] if shape.dropped else []
    if shape.width < encoder.width:
        pruning.append(
            _NEURONS.format(
                modifier=modifier,
                width=shape.width,
                dense=encoder.width,
                seconds="\n".join(f"      - {layer.second}.weight" for layer in kept),
                sparsity=1 - shape.width / encoder.width,
                end=frame.pruning_end,
                samples=f"    num_samples: {num_samples}\n" if modifier == "ReconstructionPruningModifier" else "",
                frequency=frame.pruning_end / 4 or 1.0,
                groups="\n".join(
                    f"      {layer.second}.weight: [{layer.first}.weight, {layer.first}.bias]" for layer in kept
                ),
            )
        )
    return frame.text(comments, pruning)
