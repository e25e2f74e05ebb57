"""Table of all modifiers, and the base classes for your own."""

from sparsification.base import Modifier, TrainingStep
from sparsification.distillation.hidden_states import PerLayerDistillationModifier
from sparsification.distillation.logits import DistillationModifier
from sparsification.pruning.acdc import ACDCPruningModifier
from sparsification.pruning.constant import ConstantPruningModifier
from sparsification.pruning.gradient_sampling import GradientSampledPruning
from sparsification.pruning.gradual import GradualPruning
from sparsification.pruning.layer_dropping import LayerPruningModifier
from sparsification.pruning.layer_thinning import LayerThinningModifier
from sparsification.pruning.magnitude import (
    GlobalMagnitudePruningModifier,
    GMPruningModifier,
    MagnitudePruningModifier,
)
from sparsification.pruning.mfac import MFACPruningModifier
from sparsification.pruning.movement import MovementPruningModifier
from sparsification.pruning.obs import OBSPruningModifier
from sparsification.pruning.one_shot import SparseGPTModifier, WandaPruningModifier
from sparsification.pruning.powerpropagation import PowerpropagationModifier
from sparsification.pruning.ranked import RankedPruning
from sparsification.pruning.reconstruction_modifier import ReconstructionPruningModifier
from sparsification.pruning.rigl import RigLPruningModifier
from sparsification.pruning.scheduled import ScheduledPruning
from sparsification.pruning.structured import StructuredPruningModifier
from sparsification.pruning.topkast import TopKASTPruningModifier
from sparsification.quantization.modifier import QuantizationModifier
from sparsification.samplers import CalibrationSampler, GradientSampler
from sparsification.schedule.epoch_range import EpochRangeModifier
from sparsification.schedule.learning_rate import (
    LearningRateBase,
    LearningRateFunctionModifier,
    LearningRateModifier,
    SetLearningRateModifier,
)
from sparsification.schedule.set_params import GradualParamModifier, SetParamModifier
from sparsification.schedule.sparsification_logging import SparsificationLoggingModifier
from sparsification.schedule.trainable_params import TrainableParamsModifier
from sparsification.schedule.weight_averaging import WeightAveragingModifier
from sparsification.schedule.weight_decay import SetWeightDecayModifier

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
        WeightAveragingModifier,
        GMPruningModifier,
        MagnitudePruningModifier,
        GlobalMagnitudePruningModifier,
        ACDCPruningModifier,
        MovementPruningModifier,
        OBSPruningModifier,
        MFACPruningModifier,
        RigLPruningModifier,
        TopKASTPruningModifier,
        ReconstructionPruningModifier,
        SparseGPTModifier,
        WandaPruningModifier,
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
    "TrainingStep",
    "CalibrationSampler",
    "GradientSampledPruning",
    "GradientSampler",
    "GradualPruning",
    "LearningRateBase",
    "Modifier",
    "RankedPruning",
    "ScheduledPruning",
    *MODIFIERS,
]
