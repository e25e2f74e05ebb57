"""Which techniques does a recipe have to choose from?"""

from sparsification.modifiers.base import Clock, Modifier
from sparsification.modifiers.constant_pruning import ConstantPruningModifier
from sparsification.modifiers.distillation import DistillationModifier
from sparsification.modifiers.epoch_range import EpochRangeModifier
from sparsification.modifiers.layer_pruning import LayerPruningModifier
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
from sparsification.modifiers.quantization import QuantizationModifier
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
        GMPruningModifier,
        MagnitudePruningModifier,
        GlobalMagnitudePruningModifier,
        ConstantPruningModifier,
        LayerPruningModifier,
        QuantizationModifier,
        DistillationModifier,
    )
}

__all__ = ["MODIFIERS", "Clock", "LearningRateBase", "Modifier", *MODIFIERS]
