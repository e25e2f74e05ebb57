"""Which techniques does a recipe have to choose from?"""

from sparsification.modifiers.acdc_pruning import ACDCPruningModifier
from sparsification.modifiers.base import Clock, Modifier
from sparsification.modifiers.constant_pruning import ConstantPruningModifier
from sparsification.modifiers.distillation import DistillationModifier
from sparsification.modifiers.epoch_range import EpochRangeModifier
from sparsification.modifiers.gradient_samples import GradientSampledPruning, GradientSampler
from sparsification.modifiers.gradual_pruning import GradualPruning
from sparsification.modifiers.layer_distillation import PerLayerDistillationModifier
from sparsification.modifiers.layer_pruning import LayerPruningModifier
from sparsification.modifiers.layer_thinning import LayerThinningModifier
from sparsification.modifiers.learning_rate import (
    LearningRateBase,
    LearningRateFunctionModifier,
    LearningRateModifier,
    SetLearningRateModifier,
)
from sparsification.modifiers.magnitude_pruning import (
    GlobalMagnitudePruningModifier,
    GMPruningModifier,
    MagnitudePruningModifier,
)
from sparsification.modifiers.mfac_pruning import MFACPruningModifier
from sparsification.modifiers.movement_pruning import MovementPruningModifier
from sparsification.modifiers.obs_pruning import OBSPruningModifier
from sparsification.modifiers.powerpropagation import PowerpropagationModifier
from sparsification.modifiers.quantization import QuantizationModifier
from sparsification.modifiers.rigl_pruning import RigLPruningModifier
from sparsification.modifiers.set_params import GradualParamModifier, SetParamModifier
from sparsification.modifiers.sparsification_logging import SparsificationLoggingModifier
from sparsification.modifiers.structured_pruning import StructuredPruningModifier
from sparsification.modifiers.topkast_pruning import TopKASTPruningModifier
from sparsification.modifiers.trainable_params import TrainableParamsModifier
from sparsification.modifiers.weight_decay import SetWeightDecayModifier

MODIFIERS: dict[str, type[Modifier]] = {
    modifier.__name__: modifier
    for modifier in (
        EpochRangeModifier,
        SetLearningRateModifier,
        LearningRateFunctionModifier,
        LearningRateModifier,
        SetWeightDecayModifier,
        TrainableParamsModifier,
        SetParamModifier,
        GradualParamModifier,
        GMPruningModifier,
        MagnitudePruningModifier,
        GlobalMagnitudePruningModifier,
        ACDCPruningModifier,
        MovementPruningModifier,
        OBSPruningModifier,
        MFACPruningModifier,
        RigLPruningModifier,
        TopKASTPruningModifier,
        StructuredPruningModifier,
        LayerThinningModifier,
        ConstantPruningModifier,
        LayerPruningModifier,
        PowerpropagationModifier,
        QuantizationModifier,
        DistillationModifier,
        PerLayerDistillationModifier,
        SparsificationLoggingModifier,
    )
}

__all__ = [
    "MODIFIERS",
    "Clock",
    "GradientSampledPruning",
    "GradientSampler",
    "GradualPruning",
    "LearningRateBase",
    "Modifier",
    *MODIFIERS,
]
